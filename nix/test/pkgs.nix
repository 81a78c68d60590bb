# As much of nixpkgs as nix/ uses, made of the machine's programs. A builder sees
# those programs only that its derivation asks for.
{ lib, system }:
let
  # A derivation whose builder is a shell script.
  run = name: env: script: derivation ({
    inherit name system;
    builder = "/bin/sh";
    args = [ "-euc" script ];
    PATH = "/usr/bin:/bin";
  } // env);

  # A package of programs that the machine has.
  machine = name: programs: run name { inherit programs; } ''
    mkdir -p "$out/bin"
    for program in $programs; do ln -s "$(command -v "$program")" "$out/bin/"; done
  '';
  coreutils = machine "coreutils" [ "cat" "chmod" "cp" "ln" "mkdir" "mv" "nproc" "rm" ];

  # Go, its cache of modules and its cache of builds are the machine's.
  go = builtins.listToAttrs (map (name: { inherit name; value = builtins.getEnv name; }) [ "GOCACHE" "GOMODCACHE" "GOPROXY" "GOSUMDB" ])
    // { PATH = builtins.getEnv "PATH"; GOTOOLCHAIN = "local"; };

  pkgs = {
    inherit lib;
    buildPackages = pkgs;
    callPackage = file: overrides:
      let f = if builtins.isFunction file then file else import file;
      in f (builtins.intersectAttrs (builtins.functionArgs f) pkgs // overrides);

    squashfsTools = machine "squashfs-tools" [ "mksquashfs" "unsquashfs" ];
    nix = machine "nix" [ "nix" "nix-store" ];
    pkgsStatic.busybox = machine "busybox-static" [ "busybox" ];

    runCommand = name: env: script: run name ({
      PATH = lib.makeBinPath (env.nativeBuildInputs or [ ] ++ [ coreutils ]);
    } // env) script;

    # What nixpkgs' wrapProgram does with the flags that nix/ gives it.
    makeWrapper = run "make-wrapper" { } ''
      mkdir -p "$out/bin"
      cat > "$out/bin/wrapProgram" <<'END'
      #!/bin/sh
      [ "$#,$2,$3,$4" = '5,--prefix,PATH,:' ] || exit 1
      hidden=''${1%/*}/.''${1##*/}-wrapped
      mv "$1" "$hidden"
      printf '#!/bin/sh\nPATH=%s:$PATH exec %s "$@"\n' "$5" "$hidden" > "$1"
      chmod 755 "$1"
      END
      chmod 755 "$out/bin/wrapProgram"
    '';

    # As nixpkgs' pkgs/build-support/go/module.nix, but that the modules are not
    # a fixed-output derivation: they are made anew when the source changes.
    buildGoModule = { pname, version, src, vendorHash, subPackages, env, ldflags, doCheck, meta, overrideModAttrs, nativeBuildInputs ? [ ], postInstall ? "" }:
      let
        goModules = run (overrideModAttrs { }).name (go // { inherit src; }) ''
          cp -r "$src" source
          chmod -R u+w source
          cd source
          [ ! -d vendor ]
          HOME=$PWD go mod vendor
          cp -r vendor "$out"
        '';
        package = run "${pname}-${version}" (go // env // {
          inherit src goModules nativeBuildInputs ldflags postInstall;
          subPackages = map (p: "./${p}") subPackages;
          GOPROXY = "off";
          GOFLAGS = "-mod=vendor -trimpath";
        }) ''
          cp -r "$src" source
          chmod -R u+w source
          cd source
          cp -r "$goModules" vendor
          mkdir "$out"
          HOME=$PWD GOBIN=$out/bin go install -ldflags "$ldflags -buildid=" $subPackages
          for input in $nativeBuildInputs; do PATH=$input/bin:$PATH; done
          eval "$postInstall"
        '';
      in
      package // { inherit goModules vendorHash src meta version; };

    # As nixpkgs' pkgs/build-support/closure-info.nix, with Perl instead of jq.
    closureInfo = { rootPaths }: derivation {
      name = "closure-info";
      inherit system;
      builder = "/bin/bash";
      __structuredAttrs = true;
      exportReferencesGraph.closure = rootPaths;
      script = ''
        use JSON::PP;
        my ($json, $out) = @ARGV;
        open(my $in, "<", $json) or die;
        my $closure = decode_json(do { local $/; <$in> })->{closure};
        mkdir $out or die;
        open(my $paths, ">", "$out/store-paths") or die;
        open(my $registration, ">", "$out/registration") or die;
        for my $p (@$closure) {
          my @references = @{$p->{references}};
          print $paths "$p->{path}\n";
          print $registration join("\n", $p->{path}, $p->{narHash}, $p->{narSize}, "", scalar @references, @references), "\n";
        }
      '';
      args = [ "-euc" ''. .attrs.sh; exec /usr/bin/perl -e "$script" .attrs.json "''${outputs[out]}"'' ];
    };

    mkShell = { packages }: run "shell" { inherit packages; } ''echo "$packages" > "$out"'';
    inherit coreutils;
    cpio = machine "cpio" [ "cpio" ];
    gnumake = machine "gnumake" [ "make" ];
    go = machine "go" [ "go" "gofmt" ];
    xz = machine "xz" [ "xz" ];
    zstd = machine "zstd" [ "zstd" ];
  };
in
pkgs
