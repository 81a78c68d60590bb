# A toplevel of each kind that NixOS has, in the smallest of closures. All but the
# first are its specialisations. Of systemd there is only a stand-in.
{ busybox    # a .deb with a static busybox
, version    # of the kernel
, image      # bzImage
, modules    # lib/modules/VERSION
, programs   # directory of the tests' observer and stand-in, static programs
}:
let
  inherit (import ./lib.nix) run file unpack linux layers systemdStandin toplevel;
  shell = unpack busybox;
  boot = linux { inherit version image modules; };
  tools = run "tools" { record = file "${programs}/record"; } ''mkdir -p "$out/bin"; cp "$record" "$out/bin/record"; chmod 755 "$out/bin/record"'';
  systemd = systemdStandin "${programs}/standin";
  etc = run "etc" { } ''
    mkdir -p "$out/directory"
    echo fixture > "$out/hostname"
    echo content > "$out/directory/file"
    ln -s ../hostname "$out/directory/link"
  '';
  nixosInit = ''
    "nix_store_mount_opts": ["ro", "nodev", "nosuid"], "special_filesystems": [],
    "firmware": "${shell}/lib/firmware", "modprobe_binary": "${shell}/bin/modprobe",
    "env_binary": "${shell}/bin/env", "sh_binary": "${shell}/bin/sh"'';
  system = name: attrs: toplevel (attrs // {
    name = "${name}-${version}";
    inherit boot systemd etc;
    sw = shell;
    scripts = { activate = ./flavours/activate.sh; observe = ./flavours/observe.sh; go-on = ./flavours/go-on.sh; };
    variables = { busybox = "${shell}/bin/busybox"; record = "${tools}/bin/record"; path = "${shell}/bin"; };
  });

in system "scripted" {
  flavour = "scripted";
  # As in NixOS 26.05, whatever starts the system.
  inherit nixosInit;
  bootParams = "console=tty0 console=ttyS0 loglevel=4 vmtest.params=boot.json";
  specialisations = {
    prepare-root = system "prepare-root" { flavour = "prepare-root"; };
    layers = system "layers" { flavour = "prepare-root"; inherit nixosInit; etcLayers = layers etc "directory/file"; };
    nixos-init = system "nixos-init" { flavour = "nixos-init"; inherit nixosInit; etcLayers = layers etc "directory/file"; };
  };
}
