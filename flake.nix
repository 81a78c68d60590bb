{
  description = "Netboot NixOS with /nix/store in RAM";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" ];
      forSystems = f: nixpkgs.lib.genAttrs systems (system: f system nixpkgs.legacyPackages.${system});
    in
    {
      nixosModules.default.imports = [ ./nix/module.nix ];

      packages = forSystems (system: pkgs:
        let
          programs = import ./default.nix { inherit pkgs; };
        in
        {
          inherit (programs) stage1 mknetboot;
          default = programs.mknetboot;
        });

      apps = forSystems (system: pkgs: rec {
        mknetboot = {
          type = "app";
          program = "${self.packages.${system}.mknetboot}/bin/mknetboot";
          meta.description = "Make a netboot directory from a NixOS system";
        };
        default = mknetboot;
      });

      # To build and to run the unit tests. `make test` needs Debian.
      devShells = forSystems (system: pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.cpio
            pkgs.gnumake
            pkgs.go
            pkgs.nix
            pkgs.squashfsTools
            pkgs.xz
            pkgs.zstd
          ];
        };
      });

      # What the module makes of the smallest configuration.
      checks = forSystems (system: pkgs: {
        inherit (self.packages.${system}) stage1 mknetboot;
        module = (nixpkgs.lib.nixosSystem {
          modules = [
            self.nixosModules.default
            {
              nixpkgs.hostPlatform = system;
              system.stateVersion = nixpkgs.lib.trivial.release;
            }
          ];
        }).config.system.build.ipxeBootDir;
      });
    };
}
