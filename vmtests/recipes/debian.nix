# A system of Debian packages, each a store path, in the shape of a NixOS one.
{ debs       # directory of .deb files
, version    # of the kernel
, image      # bzImage
, modules    # lib/modules/VERSION
, programs   # directory of the tests' observer and stand-in, static programs
, flavour    # see toplevel in lib.nix
}:
let
  inherit (import ./lib.nix) run file unpack linux layers systemdStandin toplevel;
  names = builtins.filter (name: builtins.match ".*[.]deb" name != null)
    (builtins.attrNames (builtins.readDir debs));
  packages = map (name: unpack "${debs}/${name}") names;
  busybox = builtins.head (builtins.filter (p: builtins.match "busybox-static-.*" p.name != null) packages);
  boot = linux { inherit version image modules; };

  # All packages in one tree: directories, links to the packages' files, and
  # copies of the packages' symlinks, so that systemd sees its aliases.
  usr = run "usr" { inherit packages; } ''
    mkdir "$out"
    merge() {
      mkdir -p "$2"
      cp -rs "$1/." "$2"
      chmod -R u+w "$2"
      (cd "$1" && find . -type l -print0 | cpio -0pdmu --quiet "$2")
    }
    for package in $packages; do
      for dir in bin sbin lib lib64; do
        if [ -d "$package/$dir" ]; then merge "$package/$dir" "$out/$dir"; fi
      done
      if [ -d "$package/usr" ]; then merge "$package/usr" "$out"; fi
    done
    ln -s bash "$out/bin/sh"
  '';

  etc = run "etc" { inherit packages checks; files = file ./debian/etc; } ''
    mkdir "$out"
    for package in $packages; do
      if [ -d "$package/etc" ]; then cp -r "$package/etc/." "$out"; chmod -R u+w "$out"; fi
    done
    cp -r "$files/." "$out"
    chmod -R u+w "$out"
    cd "$out/systemd/system"
    ln -s /usr/lib/systemd/system/multi-user.target default.target
    mkdir -p multi-user.target.wants
    ln -s /usr/lib/systemd/system/ssh.service multi-user.target.wants/
    ln -s ../vmtest.service multi-user.target.wants/
    sed -i "s|@checks@|$checks|" vmtest.service
  '';

  checks = run "vmtest-checks" { files = file ./debian/checks; record = file "${programs}/record"; } ''
    mkdir "$out"
    cp "$files"/* "$out"
    cp "$record" "$out/record"
    chmod 755 "$out"/*
  '';

in toplevel ({
  name = "vmtest-${version}";
  inherit flavour boot etc;
  sw = usr;
  systemd = usr;
  stage2 = ./debian/init.sh;
  scripts = { links = ./debian/links.sh; };
  variables = { busybox = "${busybox}/bin/busybox"; inherit checks; };
} // (if flavour != "nixos-init" then { } else {
  # There is no script that could run before systemd.
  systemd = systemdStandin "${programs}/standin";
  scripts = { links = ./debian/links.sh; observe = ./debian/observe.sh; go-on = ./debian/go-on.sh; };
  etcLayers = layers etc "shadow";
  nixosInit = ''"nix_store_mount_opts": ["ro"], "modprobe_binary": "${usr}/sbin/modprobe"'';
}))
