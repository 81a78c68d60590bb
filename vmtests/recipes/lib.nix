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
  linux = { version, image, modules }: rec {
    kernel = run "linux-${version}" { image = file image; } ''
      mkdir "$out"
      cp "$image" "$out/bzImage"
    '';
    kernelModules = run "linux-modules-${version}" { inherit modules version; } ''
      mkdir -p "$out/lib/modules/$version"
      cd "$modules"
      find kernel/fs/autofs kernel/fs/configfs kernel/fs/ext4 kernel/fs/fat kernel/fs/fuse kernel/fs/isofs \
        kernel/fs/nls kernel/fs/overlayfs kernel/fs/squashfs kernel/fs/jbd2 kernel/fs/mbcache.ko* \
        kernel/crypto kernel/lib kernel/drivers/block kernel/drivers/virtio kernel/drivers/net/virtio_net.ko* \
        kernel/drivers/net/net_failover.ko* kernel/net/core/failover.ko* kernel/arch/x86/crypto \
        -name '*.ko*' | cpio -pdm --quiet "$out/lib/modules/$version"
      cp modules.builtin modules.builtin.modinfo modules.order "$out/lib/modules/$version/"
      depmod -b "$out" "$version"
    '';
  };
}
