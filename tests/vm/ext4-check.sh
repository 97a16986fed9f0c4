# shellcheck shell=busybox disable=SC1091
# What ext4.sh or ext4-cut.sh wrote is all there, and the file system is whole.
. /in/files.sh
set -e
nbd_up /dev/nbd0
mount -t ext4 /dev/nbd0 /mnt
check_files /mnt
umount /mnt
e2fsck -fn /dev/nbd0
nbd_down /dev/nbd0
