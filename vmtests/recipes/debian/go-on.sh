#!@busybox@ sh
# After the stand-in for systemd, where no stage 2 has run: what Debian's systemd
# needs and NixOS's does not, and it.
. @toplevel@/links
PATH=/usr/sbin:/usr/bin
tr -d - < /proc/sys/kernel/random/uuid > /etc/machine-id
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
exec /usr/bin/env -i /usr/lib/systemd/systemd
