# Without flakes: nix-build -A mknetboot, or in a configuration
#
#   imports = [ (import /path/to/stage1 { }).nixosModule ];
{ pkgs ? import <nixpkgs> { } }:
{
  inherit (pkgs.callPackage ./nix/packages.nix { }) stage1 mknetboot;
  nixosModule = ./nix/module.nix;
}
