#!@busybox@ sh
# Stage 2 in the shape of NixOS's (nixpkgs nixos/modules/system/boot/
# stage-2-init.sh), which is the toplevel's init or its prepare-root. A systemd in
# the initrd runs it in a chroot, tells it so, and starts systemd itself.
# Otherwise it is PID 1 and becomes systemd.
systemConfig=@toplevel@
# Another shell redirects, so that PID 1's descriptors stay as they are.
@busybox@ sh -c '@record@ > /run/facts.stage2'
export HOME=/root PATH=@path@

if [ "$IN_NIXOS_SYSTEMD_STAGE1" = true ]; then
  echo "stage 2: not started by stage1"
  exit 1
fi
echo "<<< stage 2: $0 >>>"
mount -o remount,rw none /
if [ ! -e /proc/1 ]; then
  echo "stage 2: the special file systems are missing"
  exit 1
fi

# The store is read-only to everyone but Nix, which remounts it for itself.
chown 0:30000 /nix/store
chmod 1775 /nix/store
mount --bind /nix/store /nix/store
mount -o remount,ro,bind /nix/store

mkdir -p /etc
mkdir -p -m 1777 /tmp
$systemConfig/activate
ln -sfn $systemConfig /run/booted-system
: >> /etc/machine-id

echo "starting systemd..."
exec @busybox@ env -i /run/current-system/systemd/lib/systemd/systemd
