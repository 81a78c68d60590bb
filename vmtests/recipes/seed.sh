# Makes what grahamc/netboot.nix makes of a closure: initrds "nix-store", with an
# image per store path, and "manifest". Arguments: the store paths.

# cpio as nixpkgs' makeInitrd calls it, of the directory $1.
archive() {
  find "$1" -exec touch -h -d @1 {} +
  (cd "$1" && find * -print0 | sort -z | cpio --quiet -o -H newc -R +0:+1 --reproducible --null) | gzip -9n > "$1.gz"
  rm -r "$1"
  mv "$1.gz" "$1"
}

# A hash part, of characters that Nix uses.
hash() { printf %s "$1" | sha256sum | cut -c1-32 | tr e g; }

squash() {
  base=${1#/nix/store/}
  name=${base#*-}
  dir=nix-store/nix/store/$(hash "$base")-$name-squash
  rest=${base#????????}
  mkdir -p "$dir/${base%"$rest"}"
  mksquashfs "$1" "$dir/${base%"$rest"}/$rest" -comp gzip -Xcompression-level 9 -keep-as-directory -all-root \
    -no-progress -processors 1 > /dev/null
}

if [ "$1" = --squash ]; then
  squash "$2"
  exit
fi

printf '%s\n' "$@" | xargs -P "$(nproc)" -n 1 sh -eu "$0" --squash

contents=$(hash "$*")-manifest
mkdir -p "manifest/nix/store/$contents"
ln -s "/nix/store/$contents" manifest/nix-store-squashes
find nix-store -type f | sed -E 's|^nix-store(.{20})|\1 |' | sort > "manifest/nix/store/$contents/squashes"

# closureInfo's registration: the database's, with the hashes in base 32.
nix-store --dump-db "$@" > db
awk 'refs > 0 { refs--; next } { field++ } field == 2 { print } field == 5 { refs = $0; field = 0 }' db |
  xargs nix-hash --type sha256 --to-base32 > hashes
awk 'refs > 0 { refs--; print; next }
  { field++ }
  field == 2 { getline hash < "hashes"; print "sha256:" hash; next }
  field == 5 { refs = $0; field = 0 }
  { print }' db | gzip -9 > "manifest/nix/store/$contents/registration.gz"
rm db hashes

archive nix-store
archive manifest
