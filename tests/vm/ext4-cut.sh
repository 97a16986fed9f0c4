# shellcheck shell=busybox disable=SC1091
# ext4 again, and the guest is cut off in the middle of its work: after the last fsync
# nothing is unmounted, flushed or disconnected. The journal is left to be replayed.
. /in/files.sh
set -e
nbd_up /dev/nbd0
mkfs.ext4 -qF /dev/nbd0
mount -t ext4 /dev/nbd0 /mnt
write_files /mnt
dd if=/dev/zero of=/mnt/unfinished bs=1M count=64 2>/dev/null &
sleep 0.3
echo 0 >/dev/ttyS1
echo o >/proc/sysrq-trigger # off, at once
sleep 60
