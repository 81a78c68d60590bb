# What both closures are made with. Builders use the machine's own programs.
rec {
  # A derivation whose builder is a shell script. Attributes are its environment.
  run = name: attrs: script: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-euc" script ];
    PATH = "/usr/sbin:/usr/bin:/sbin:/bin";
  } // attrs);

  # A name that the store allows.
  storeName = path: builtins.replaceStrings [ "%3a" "~" ] [ "-" "-" ] (baseNameOf path);

  # A file from outside the store.
  file = path: builtins.path { inherit path; name = storeName path; };

  # A Debian package, unpacked. Its file is called NAME_VERSION_ARCHITECTURE.deb.
  unpack = deb:
    let parts = builtins.match "([^_]*)_([^_]*)_.*" (storeName deb);
    in run "${builtins.elemAt parts 0}-${builtins.elemAt parts 1}" { src = file deb; } ''
      dpkg-deb -x "$src" "$out"
    '';

  # The kernel, and those of its modules that a netbooted machine may want.
  linux = { version, image, modules, name ? "bzImage" }: rec {
    kernel = run "linux-${version}" { image = file image; } ''
      mkdir "$out"
      cp "$image" "$out/${name}"
    '';
    kernelModules = run "linux-modules-${version}" { inherit modules version; } ''
      mkdir -p "$out/lib/modules/$version"
      cd "$modules"
      find kernel/fs/autofs kernel/fs/configfs kernel/fs/erofs kernel/fs/ext4 kernel/fs/fat kernel/fs/fuse kernel/fs/isofs \
        kernel/fs/nls kernel/fs/overlayfs kernel/fs/squashfs kernel/fs/jbd2 kernel/fs/mbcache.ko* \
        kernel/crypto kernel/lib kernel/drivers/block kernel/drivers/virtio kernel/drivers/net/virtio_net.ko* \
        kernel/drivers/net/net_failover.ko* kernel/net/core/failover.ko* kernel/arch/*/crypto \
        -name '*.ko*' | cpio -pdm --quiet "$out/lib/modules/$version"
      cp modules.builtin modules.builtin.modinfo modules.order "$out/lib/modules/$version/"
      depmod -b "$out" "$version"
    '';
  };

  # A toplevel of a flavour that nixpkgs nixos/modules/system/activation/
  # top-level.nix makes: "scripted", "prepare-root" for a systemd initrd, or
  # "nixos-init". It has a boot.json if it is told the parameters in it, or the
  # members of what is in it for nixos-init.
  toplevel =
    { name, flavour, boot, systemd, etc, sw
    , scripts                # files of the toplevel by name
    , variables              # values of @NAME@ in scripts
    , stage2 ? ./stage2.sh
    , etcLayers ? null       # see layers
    , bootParams ? null
    , nixosInit ? null
    , specialisations ? { }
    }:
    let
      bootJSON = ''
        {
          "org.nixos.bootspec.v1": {
            "init": "@toplevel@/init", "kernel": "${boot.kernel}/bzImage",
            "kernelParams": [ ${builtins.toJSON (if bootParams == null then kernelParams else bootParams)} ],
            "label": "vmtest", "system": "x86_64-linux", "toplevel": "@toplevel@"
          },
          "org.nixos.nixos-init.v1": {
            ${if etcLayers == null then "" else ''"etc_metadata_image": "${etcLayers}/image", "etc_basedir": "${etcLayers}/base",''}
            ${nixosInit}
          }
        }
      '';
      kernelParams = "console=tty0 console=ttyS0 loglevel=4";
      each = f: attrs: builtins.concatStringsSep "\n" (builtins.attrValues (builtins.mapAttrs f attrs));
    in run "nixos-system-${name}" {
      inherit flavour systemd etc sw kernelParams;
      inherit (boot) kernel kernelModules;
      stage2 = file stage2;
    } ''
      mkdir -p "$out/specialisation"
      script() {
        sed -e "s|@toplevel@|$out|g" ${each (name: value: ''-e "s|@${name}@|${value}|g" \'') variables}
          "$1" > "$2"
        chmod 755 "$2"
      }
      case $flavour in
        scripted) script "$stage2" "$out/init" ;;
        prepare-root) script "$stage2" "$out/prepare-root" ;;
      esac
      if [ "$flavour" != scripted ]; then
        cp -L "$systemd/lib/systemd/systemd" "$out/init"
      fi
      ${each (name: source: ''script "${file source}" "$out/${name}"'') scripts}
      ${each (name: system: ''ln -s "${system}" "$out/specialisation/${name}"'') specialisations}
      ln -s "$kernel/bzImage" "$out/kernel"
      ln -s "$kernelModules" "$out/kernel-modules"
      ln -s "$sw" "$out/sw"
      ln -s "$systemd" "$out/systemd"
      ln -s "$etc" "$out/etc"
      ${if etcLayers == null then "" else ''
        ln -s "${etcLayers}/image" "$out/etc-metadata-image"
        ln -s "${etcLayers}/base" "$out/etc-basedir"
      ''}
      printf %s "$kernelParams" > "$out/kernel-params"
      printf '12.vmtest' > "$out/nixos-version"
      printf 'x86_64-linux' > "$out/system"
      ${if nixosInit == null then "" else ''
        cat > "$out/boot.json" << 'end of boot.json'
        ${bootJSON}
        end of boot.json
        sed -i "s|@toplevel@|$out|g" "$out/boot.json"
      ''}
    '';

  # The layers of an /etc: "image", an EROFS image of all but the content of files,
  # and "base", a directory of that. Each file in the image tells by its extended
  # attributes where in base its content is. They are made on a tmpfs, since an
  # overlay would keep attributes of that name for itself. The file private has mode
  # 640, which no file in the store has.
  layers = etc: private: run "etc-layers" { inherit etc private; } ''
    mkdir "$out" tree
    cp -r "$etc" "$out/base"
    mount -t tmpfs tmpfs tree
    trap 'umount tree' EXIT
    cp -r "$etc/." tree
    chmod -R u+w tree
    cd tree
    find . -type f -exec truncate -s 0 {} \; -exec sh -euc '
      for file; do
        truncate -r "$etc/$file" "$file"
        setfattr -n trusted.overlay.metacopy "$file"
        setfattr -n trusted.overlay.redirect -v "''${file#.}" "$file"
      done' sh {} +
    chmod 640 "$private"
    mkfs.erofs -T 1 --all-root --quiet "$out/image" .
    cd ..
  '';

  # A systemd that is the stand-in, see facts/standin.
  systemdStandin = program: run "systemd" { program = file program; } ''
    mkdir -p "$out/lib/systemd"
    cp "$program" "$out/lib/systemd/systemd"
    chmod 755 "$out/lib/systemd/systemd"
  '';
}
