# The directories that Debian's programs need, outside the store.
@busybox@ ln -s "$(@busybox@ readlink -f @toplevel@/sw)" /usr
for dir in bin sbin lib lib64; do @busybox@ ln -s usr/$dir /$dir; done
@busybox@ mkdir -p /home /root /tmp /var/cache /var/empty /var/lib /var/log /var/tmp
@busybox@ chmod 1777 /tmp /var/tmp
@busybox@ chmod 700 /root
@busybox@ ln -s /run /var/run
