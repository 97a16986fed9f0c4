# shellcheck shell=busybox disable=SC1091
# ext4 over the kernel's NBD client: make it, fill it, fsync, unmount, disconnect.
. /in/files.sh
set -e
nbd_up /dev/nbd0
mkfs.ext4 -qF /dev/nbd0
mount -t ext4 -o discard /dev/nbd0 /mnt
write_files /mnt
umount /mnt
nbd_down /dev/nbd0
