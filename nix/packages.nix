# The two programs, for pkgs.callPackage. go.mod says which Go they need.
{ lib, buildGoModule, makeWrapper, squashfsTools }:
let
  program = name: attrs: buildGoModule ({
    pname = name;
    version = "0";

    # What programs are made of, so that nothing else builds them anew.
    src = lib.fileset.toSource {
      root = ../.;
      fileset = lib.fileset.difference
        (lib.fileset.fileFilter
          (file: file.name == "go.mod" || file.name == "go.sum" || file.hasExt "tmpl"
            || file.hasExt "go" && !lib.hasSuffix "_test.go" file.name)
          ../.)
        ../vmtests;
    };

    # NAR hash of what `go mod vendor` makes of src. TestVendorHash in vmtests
    # computes it and says what to put here.
    vendorHash = "sha256-uxbPpGDdPa8b3f1JK+UMgk92Us9xu7ahP9RX3UkKeY8=";
    # Both programs share one download.
    overrideModAttrs = _: { name = "stage1-go-modules"; };

    subPackages = [ "cmd/${name}" ];
    env.CGO_ENABLED = 0;
    ldflags = [ "-s" "-w" ];
    # The tests need root, QEMU and Debian's packages: see `make test`.
    doCheck = false;
  } // attrs);
in
rec {
  stage1 = program "stage1" {
    meta = {
      description = "Init of a netboot initrd that makes /nix/store in RAM";
      license = lib.licenses.mit;
      mainProgram = "stage1";
      platforms = lib.platforms.linux;
    };
  };

  mknetboot = program "mknetboot" {
    nativeBuildInputs = [ makeWrapper ];
    # It takes the stage1 beside itself, and nix from the caller's PATH.
    postInstall = ''
      wrapProgram "$out/bin/mknetboot" --prefix PATH : ${lib.makeBinPath [ squashfsTools ]}
      ln -s ${stage1}/bin/stage1 "$out/bin/stage1"
    '';
    meta = {
      description = "Builder of netboot directories from NixOS systems";
      license = lib.licenses.mit;
      mainProgram = "mknetboot";
      platforms = lib.platforms.linux;
    };
  };
}
