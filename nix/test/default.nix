# What the tests in vmtests build and look at: attr of what nix/module.nix makes
# of a configuration, a file, and a toplevel, a store path.
{ attr
, config ? null
, toplevel ? null
}:
let
  lib = import ./lib.nix;
  pkgs = import ./pkgs.nix { inherit lib; system = builtins.currentSystem; };
  programs = import ../../default.nix { inherit pkgs; };
  system = import ./nixos.nix {
    inherit pkgs;
    toplevel = builtins.storePath toplevel;
    modules = [ programs.nixosModule ] ++ lib.optional (config != null) (/. + config);
  };

  # The rows of the table in docs/nixos.md.
  rows = prefix: options: builtins.concatMap
    (name:
      let option = options.${name}; here = "${prefix}.${name}";
      in
      if option._type or null != "option" then rows here option
      else [ "| `${here}` | ${option.description} | ${text option "default"} | ${text option "example"} |" ]
        ++ (if option.type ? nested then rows "${here}.<name>" option.type.nested else [ ]))
    (builtins.attrNames options);
  text = option: attr:
    let value = option.${attr} or null; shown = option."${attr}Text" or value;
    in if !(option ? ${attr}) then "" else "`${shown.text or (nix value)}`";
  nix = value:
    if value == { } then "{ }"
    else if builtins.isList value then "[ ${builtins.concatStringsSep "" (map (v: "${nix v} ") value)}]"
    else builtins.toJSON value;
in
{
  inherit (programs) stage1 mknetboot;
  inherit (programs.mknetboot) goModules vendorHash;
  inherit (system.config.system.build) ipxeBootDir kexecTree squashfsStore;
  inherit (system.config) fileSystems;
  options = rows "boot.stage1" system.options.boot.stage1;
}.${attr}
