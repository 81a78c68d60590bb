#!@busybox@ sh
# Stage 2 of the tiny closure: records what it finds, and ends as the word
# vmtest.end= on the kernel command line says: poweroff (default), reboot, shell.
echo "<<< stage 2: $0 $* >>>"
@record@ -files /nix/registration,/run/stage1/boot.json /nix/store /nix/var /etc
echo "<<< stage 2: recorded >>>"
case " $(@busybox@ cat /proc/cmdline) " in
  *' vmtest.end=reboot '*) @busybox@ reboot -f ;;
  *' vmtest.end=shell '*) exec @busybox@ sh ;;
  *) @busybox@ poweroff -f ;;
esac
