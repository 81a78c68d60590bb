#!@busybox@ sh
# Stage 2, in essence what NixOS's does: links into the closure, /etc, the Nix
# database, then systemd.
PATH=/usr/sbin:/usr/bin
busybox=@busybox@
systemConfig=@toplevel@

$busybox echo "<<< stage 2: $systemConfig >>>"
. $systemConfig/links

# What stage 1 has left, for the checks to look at. Another shell redirects the
# output, so that PID 1's descriptors stay as they are.
$busybox sh -c '@checks@/record > /run/facts'

mkdir -p /etc
cp -rd $systemConfig/etc/. /etc
chmod -R u+w /etc
chmod 600 /etc/shadow
tr -d - < /proc/sys/kernel/random/uuid > /etc/machine-id
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key

# The store is read-only to everyone but Nix, which remounts it for itself.
chown 0:30000 /nix/store
chmod 1775 /nix/store
mount --bind /nix/store /nix/store
mount -o remount,ro,bind /nix/store

ln -sfn $systemConfig /run/current-system
ln -sfn $systemConfig /run/booted-system
case " $(cat /proc/cmdline) " in
  # A configuration that does nothing for Nix. It roots nothing either, so that
  # only the profile keeps the garbage collector off.
  *' vmtest.nix=shipped '*) echo "stage 2: Nix database as shipped" ;;
  # What netboot.nix has in its postBootCommands.
  *)
    mkdir -p /nix/var/nix/gcroots
    ln -sfn /run/current-system /nix/var/nix/gcroots/current-system
    ln -sfn /run/booted-system /nix/var/nix/gcroots/booted-system
    nix-store --load-db < /nix/registration && echo "stage 2: Nix database loaded" || echo "stage 2: nix-store --load-db: exit status $?"
    touch /etc/NIXOS
    nix-env -p /nix/var/nix/profiles/system --set /run/current-system ;;
esac

exec /usr/bin/env -i $systemConfig/systemd/lib/systemd/systemd
