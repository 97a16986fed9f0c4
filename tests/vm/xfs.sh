# shellcheck shell=busybox disable=SC1091
# xfs over the kernel's NBD client, on two connections.
. /in/files.sh
set -e
modprobe xfs
nbd_up /dev/nbd0 -C 2
mkfs.xfs -qf /dev/nbd0
mount -t xfs /dev/nbd0 /mnt
write_files /mnt
umount /mnt
nbd_down /dev/nbd0
