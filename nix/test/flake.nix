# Stands for nixpkgs, as an input of the flake that is tested.
{
  outputs = { self }:
    let
      lib = import ./lib.nix // {
        nixosSystem = { modules }: import ./nixos.nix rec {
          inherit modules;
          pkgs = import ./pkgs.nix { inherit lib; system = "x86_64-linux"; };
          toplevel = pkgs.runCommand "nixos-system" { } "mkdir $out";
        };
      };
    in
    {
      inherit lib;
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: import ./pkgs.nix { inherit lib system; });
    };
}
