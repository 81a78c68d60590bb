#!@busybox@ sh
# What of NixOS's activation scripts concerns stage 1.
systemConfig=@toplevel@
@record@ > /run/facts.activate

# system.build.etcActivationCommands in nixpkgs nixos/modules/system/etc/etc.nix.
if [ -e $systemConfig/etc-metadata-image ]; then
  if [ "$(readlink -f /run/current-system/etc)" != "$(readlink -f $systemConfig/etc)" ]; then
    echo "activate: would mount /etc again"
  fi
else
  echo "setting up /etc..."
  cp -rd $systemConfig/etc/. /etc
fi
mkdir -p /usr/bin /bin
ln -sfn @busybox@ /usr/bin/env
ln -sfn @busybox@ /bin/sh
echo /activated/modprobe > /proc/sys/kernel/modprobe
ln -sfn "$(readlink -f $systemConfig)" /run/current-system
