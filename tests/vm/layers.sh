# shellcheck shell=busybox disable=SC1091
# ext4 that goes on being used while layers are pushed, pulled and grown beneath it.
. /in/files.sh
set -e
nbd_up /dev/nbd0
mkfs.ext4 -qF /dev/nbd0
mount -t ext4 -o discard /dev/nbd0 /mnt
write_files /mnt
sync
echo "the files are on the disk"
end=$(($(date +%s) + 20))
round=0
while [ "$(date +%s)" -lt $end ]; do
  round=$((round + 1))
  mkdir /mnt/round
  for number in 1 2 3; do
    file_content $((number + round % 5)) | dd of=/mnt/round/$number bs=64k conv=fsync 2>/dev/null
  done
  for number in 1 2 3; do
    file_content $((number + round % 5)) | cmp - /mnt/round/$number
  done
  rm -r /mnt/round
done
echo 3 >/proc/sys/vm/drop_caches
check_files /mnt
umount /mnt
nbd_down /dev/nbd0
echo "$round rounds"
