# As much of NixOS as nix/module.nix meets: options, and what NixOS demands of
# them before it gives a toplevel, which here is one that is there already.
{ pkgs, toplevel, modules }:
let
  nixos = { config, lib, ... }:
    let
      inherit (lib) mkOption types;
      option = type: default: mkOption { inherit type default; description = "As in NixOS."; };
      failed = map (a: a.message) (builtins.filter (a: !a.assertion) config.assertions);
    in
    {
      options = {
        assertions = option (types.listOf types.unspecified) [ ];
        boot.kernelParams = option (types.listOf types.str) [ ];
        boot.loader.grub.enable = option types.bool true;
        boot.loader.grub.devices = option (types.listOf types.str) [ ];
        boot.loader.systemd-boot.enable = option types.bool false;
        networking.hostName = option types.str "nixos";
        nixpkgs.hostPlatform = option types.str "x86_64-linux";
        system.etc.overlay.enable = option types.bool false;
        system.etc.overlay.mutable = option types.bool true;
        system.stateVersion = option types.str lib.trivial.release;
        system.build = option (types.attrsOf types.unspecified) { };
        fileSystems = option
          (types.attrsOf (types.submodule {
            options = {
              device = option (types.nullOr types.str) null;
              fsType = option types.str "auto";
              options = option (types.listOf types.str) [ "defaults" ];
              neededForBoot = option types.bool false;
            };
          })) { };
      };

      config = {
        assertions = [
          {
            assertion = config.fileSystems ? "/";
            message = "The ‘fileSystems’ option does not specify your root file system.";
          }
          {
            assertion = config.boot.loader.grub.enable -> config.boot.loader.grub.devices != [ ];
            message = "You must set the option ‘boot.loader.grub.devices’ to make the system bootable.";
          }
        ];
        system.build.toplevel =
          if failed == [ ] then toplevel
          else throw "Failed assertions: ${toString failed}";
      };
    };
in
pkgs.lib.evalModules {
  specialArgs = { inherit pkgs; };
  modules = [ nixos ] ++ modules;
}
