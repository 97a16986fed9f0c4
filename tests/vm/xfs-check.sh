# shellcheck shell=busybox disable=SC1091
# What xfs.sh wrote is all there, and the file system is whole.
. /in/files.sh
set -e
modprobe xfs
nbd_up /dev/nbd0 -C 2
mount -t xfs /dev/nbd0 /mnt
check_files /mnt
umount /mnt
xfs_repair -n /dev/nbd0
nbd_down /dev/nbd0
