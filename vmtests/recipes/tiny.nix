# The smallest closure that holds every kind of thing a store can hold.
{ busybox    # a .deb with a static busybox
, version    # of the kernel
, image      # bzImage or Image
, modules    # lib/modules/VERSION
, programs   # directory of the tests' observer and stand-in, static programs
, arch       # of all these: amd64 or arm64
}:
let
  machine = {
    amd64 = { system = "x86_64-linux"; kernel = "bzImage"; console = "ttyS0"; };
    arm64 = { system = "aarch64-linux"; kernel = "Image"; console = "ttyAMA0"; };
  }.${arch};
  inherit (import ./lib.nix) run file unpack linux;
  shell = unpack busybox;
  boot = linux { inherit version image modules; name = machine.kernel; };

  bareFile = run "bare-file" { } ''printf 'a file is a store path\n' > "$out"'';
  bareProgram = run "bare-program" { } ''printf '#! /bin/sh\n' > "$out"; chmod 755 "$out"'';
  bareSymlink = run "bare-symlink" { inherit bareFile; } ''ln -s "$bareFile" "$out"'';
  dangling = run "dangling-symlink" { } ''ln -s /absent "$out"'';
  emptyDirectory = run "empty-directory" { } ''mkdir "$out"'';
  emptyFile = run "empty-file" { } '': > "$out"'';

  # Its modes, times and extended attributes are changed after the build: see
  # oddities in closure.go.
  odd = run "odd" { } ''
    mkdir -p "$out/a directory/with spaces" "$out/sticky"
    cd "$out"
    echo 'a name' > 'a directory/with spaces/and a file'
    echo newline > 'new
    line'
    echo umlaut > 'Überraschung'
    echo one > hard1
    ln hard1 hard2
    ln hard1 'a directory/hard3'
    printf '#! /bin/sh\n' > program
    chmod 755 program
    ln -s hard1 soft
    ln -s ../../absent dangling
    ln -s "$(printf '%01000d' 0)" long
    : > empty
    head -c 1 /dev/zero > byte
    head -c 131072 /dev/zero > block-of-zeros
    head -c 300001 /dev/zero > blocks-of-zeros
    seq 100000 > blocks-and-a-tail
    truncate -s 10M sparse
    printf end >> sparse
  '';

  # A directory whose listing is larger than squashfs's 8 KiB metadata blocks,
  # with an index, and whose names take 100 KB.
  many = run "many" { } ''
    mkdir -p "$out/large"
    cd "$out/large"
    seq -f 'a-file-in-a-large-directory-with-a-long-name-%05g' 2000 | xargs touch
    mkdir "$out/deep"
    cd "$out/deep"
    for i in $(seq 60); do mkdir "level$i"; cd "level$i"; echo "$i" > file; done
  '';

  init = file ./tiny/init.sh;
  observer = run "record" { record = file "${programs}/record"; } ''mkdir -p "$out/bin"; cp "$record" "$out/bin/record"; chmod 755 "$out/bin/record"'';

in run "nixos-system-tiny-${version}" {
  inherit shell init observer bareFile bareProgram bareSymlink dangling emptyDirectory emptyFile odd many;
  inherit (boot) kernel kernelModules;
} ''
  mkdir "$out"
  sed -e "s|@busybox@|$shell/bin/busybox|g" -e "s|@record@|$observer/bin/record|g" "$init" > "$out/init"
  chmod 755 "$out/init"
  ln -s "$kernel/${machine.kernel}" "$out/kernel"
  ln -s "$kernelModules" "$out/kernel-modules"
  mkdir "$out/sw"
  ln -s "$shell/bin" "$out/sw/bin"
  for path in $bareFile $bareProgram $bareSymlink $dangling $emptyDirectory $emptyFile $odd $many; do
    echo "$path" >> "$out/fixtures"
  done
  printf 'console=tty0 console=${machine.console} loglevel=4' > "$out/kernel-params"
  printf '12.tiny' > "$out/nixos-version"
  printf '${machine.system}' > "$out/system"
''
