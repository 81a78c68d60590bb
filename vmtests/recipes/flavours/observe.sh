#!@busybox@ sh
# What systemd finds. The last lines write to /etc, if that can be.
@record@ -files /sys/module/firmware_class/parameters/path,/etc/hostname,/etc/directory/file \
  /etc /usr /bin /nix/store /run/current-system /run/booted-system > /run/facts.systemd
{ @busybox@ echo written > /etc/directory/file; } 2> /dev/null
@busybox@ echo "/etc/directory/file: $(@busybox@ cat /etc/directory/file)"
