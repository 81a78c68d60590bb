# A NixOS system that is netbooted with its store in RAM. It adds
#
#   system.build.ipxeBootDir    what a web server gives to iPXE, with kexec-boot
#   system.build.kexecTree      the same, by nixpkgs' name for what kexec boots
#   system.build.squashfsStore  the images of the store paths, as mknetboot caches them
#
# The derivations are plain ones: closureInfo tells mknetboot the closure, so
# that it asks no Nix inside the build. The toplevel stays as it is; stage 1
# takes the place of its initrd.
{ config, lib, pkgs, ... }:
let
  inherit (lib) literalExpression mkImageMediaOverride mkOption types;
  cfg = config.boot.stage1;
  inherit (config.system.build) toplevel;
  etc = config.system.etc.overlay;

  # The init is for the machine that boots, the builder for the one that builds.
  programs = pkgs.callPackage ./packages.nix { };
  buildPrograms = pkgs.buildPackages.callPackage ./packages.nix { };

  # Values of flags, for a shell.
  flags = name: values: map (value: lib.escapeShellArg "--${name}=${toString value}") values;
  flag = name: value: flags name (lib.optional (value != null) value);

  # What shapes the images of store paths, and so squashfsStore.
  imageFlags = flag "compressor" cfg.compressor
    ++ flag "level" cfg.level
    ++ flag "block-size" cfg.blockSize;

  bootFlags = flags "module" cfg.modules
    ++ flags "extra-files" (files (file: file.initrd))
    ++ flags "root-files" (files (file: file.root))
    ++ flag "debug-shell" (if cfg.debugShell.enable then cfg.debugShell.busybox else null)
    ++ flag "append" (if kernelParams == [ ] then null else toString kernelParams)
    ++ lib.optional (!cfg.link) "--no-link"
    ++ lib.optional (!cfg.database) "--no-database";

  files = wanted: lib.mapAttrsToList (dest: file: "${file.source}:${dest}")
    (lib.filterAttrs (_: wanted) cfg.extraFiles);

  # Parameters at their defaults are left out: a command line has 2047 bytes.
  kernelParams = param "store" "auto" cfg.store
    ++ param "on_fail" "reboot" cfg.onFail
    ++ param "on_fail_delay" 10 cfg.onFailDelay
    ++ param "root_size" null cfg.rootSize
    ++ param "nix_size" null cfg.nixSize
    ++ param "etc" "rw" (if etc.enable && !etc.mutable then "ro" else "rw")
    ++ cfg.kernelParams;
  param = name: default: value: lib.optional (value != default) "stage1.${name}=${toString value}";

  # runCommand with a script that may call mknetboot on the toplevel.
  build = name: script: pkgs.runCommand "${name}-${config.networking.hostName}" {
    # Nix makes a database from the registration, in a directory of its own.
    nativeBuildInputs = [ cfg.mknetboot pkgs.buildPackages.nix ];
    closureInfo = pkgs.closureInfo { rootPaths = [ toplevel ]; };
  } ''
    build() {
      mknetboot --closure-info "$closureInfo" --stage1 ${cfg.package}/bin/stage1 -o netboot "$@" ${toplevel}
    }
    ${script}
  '';
in
{
  options.boot.stage1 = {
    enable = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = "Whether the system is netbooted by stage1: `/` and `/nix` are in RAM, and there is no boot loader.";
    };

    package = mkOption {
      type = types.package;
      default = programs.stage1;
      defaultText = literalExpression "stage1";
      description = "Package with `bin/stage1`, the init of the initrd.";
    };

    mknetboot = mkOption {
      type = types.package;
      default = buildPrograms.mknetboot;
      defaultText = literalExpression "mknetboot";
      description = "Package with `bin/mknetboot`, which runs on the machine that builds.";
    };

    store = mkOption {
      type = types.enum [ "auto" "overlay" "copy" ];
      default = "auto";
      example = "copy";
      description = "How images become the store: mounted below an overlay, or copied; auto mounts, and copies where that can't be or takes too much RAM.";
    };

    compressor = mkOption {
      type = types.enum [ "zstd" "gzip" "xz" "lz4" ];
      default = "zstd";
      example = "xz";
      description = "Compressor of the images.";
    };

    level = mkOption {
      type = types.nullOr (types.ints.between 1 22);
      default = null;
      example = 3;
      description = "Level of compression: zstd 1 to 22, gzip 1 to 9; null is mknetboot's default (zstd 15, gzip 9).";
    };

    blockSize = mkOption {
      type = types.enum [ 4096 8192 16384 32768 65536 131072 262144 524288 1048576 ];
      default = 131072;
      example = 1048576;
      description = "Bytes of a block of an image.";
    };

    link = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = "Whether the images are linked into one.";
    };

    modules = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "nvme" ];
      description = "Kernel modules to load before the import, beside those that it needs.";
    };

    extraFiles = mkOption {
      type = types.attrsOf (types.submodule {
        options = {
          source = mkOption {
            type = types.path;
            example = literalExpression "./motd";
            description = "File or directory to take.";
          };
          initrd = mkOption {
            type = types.bool;
            default = true;
            example = false;
            description = "Whether it is in the initrd.";
          };
          root = mkOption {
            type = types.bool;
            default = false;
            example = true;
            description = "Whether it is in the new root, which the system starts with.";
          };
        };
      });
      default = { };
      example = literalExpression ''{ "/etc/motd".source = ./motd; }'';
      description = "Files and directories to put into the initrd or the new root, by their absolute names there.";
    };

    database = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = "Whether the Nix database is made while building; else the system has to load `/nix/registration`.";
    };

    kernelParams = mkOption {
      type = types.listOf (types.strMatching ''([^"[:space:]]|"[^"]*")+'');
      default = [ ];
      example = [ "boot.shell_on_fail" "console=ttyS0,115200" ];
      description = "Kernel parameters after those of `boot.kernelParams`, which are the system's.";
    };

    debugShell = {
      enable = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = "Whether the initrd has a shell. A flag like `boot.shell_on_fail` must allow it, too.";
      };
      busybox = mkOption {
        type = types.path;
        default = "${pkgs.pkgsStatic.busybox}/bin/busybox";
        defaultText = literalExpression ''"''${pkgs.pkgsStatic.busybox}/bin/busybox"'';
        description = "Static busybox for it.";
      };
    };

    onFail = mkOption {
      type = types.enum [ "reboot" "poweroff" "panic" "shell" "hang" ];
      default = "reboot";
      example = "hang";
      description = "What to do after a fatal error when no key is pressed.";
    };

    onFailDelay = mkOption {
      type = types.ints.unsigned;
      default = 10;
      example = 60;
      description = "Seconds to wait for a key before that.";
    };

    rootSize = mkOption {
      type = types.nullOr (types.strMatching "[0-9]+[KMG%]?");
      default = null;
      example = "4G";
      description = "Size of the tmpfs on `/`: bytes, with K, M or G, or with % of RAM; null is 50%.";
    };

    nixSize = mkOption {
      type = types.nullOr (types.strMatching "[0-9]+[KMG%]?");
      default = null;
      example = "80%";
      description = "Size of the tmpfs on `/nix`, likewise; null is 50%, or more if the store needs it.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.onFail == "shell" -> cfg.debugShell.enable;
        message = "boot.stage1.onFail is \"shell\", and the initrd has none: set boot.stage1.debugShell.enable.";
      }
      {
        assertion = lib.all (name: builtins.match "/[^:]+" name != null) (lib.attrNames cfg.extraFiles);
        message = "boot.stage1.extraFiles: names are absolute and have no colon.";
      }
    ];

    # Stage 1 mounts both. NixOS wants to know of them, and a configuration made
    # for a disk has others: those yield, as in nixpkgs' netboot.nix.
    fileSystems."/" = mkImageMediaOverride {
      fsType = "tmpfs";
      options = [ "mode=0755" ];
    };
    fileSystems."/nix" = mkImageMediaOverride {
      fsType = "tmpfs";
      options = [ "mode=0755" ];
      neededForBoot = true;
    };
    boot.loader.grub.enable = mkImageMediaOverride false;
    boot.loader.systemd-boot.enable = mkImageMediaOverride false;

    system.build = {
      # Flags that only concern stage 1 change ipxeBootDir, and compress nothing.
      squashfsStore = build "squashfs-store" ''
        build --cache "$out" --no-database ${toString imageFlags}
      '';

      ipxeBootDir = build "netboot" ''
        cp -r ${config.system.build.squashfsStore} cache
        chmod -R u+w cache
        build --cache cache ${toString (imageFlags ++ bootFlags)}
        mv netboot "$out"
      '';

      kexecTree = config.system.build.ipxeBootDir;
    };
  };
}
