# shellcheck shell=busybox
# Two connections at once, with 4096-byte and with 512-byte blocks: four writers beside
# each other, each its own range, then all of it compared through a fresh connection.
set -e
seq 1000001 1262144 >/tmp/lines

pattern() { # WRITER BLOCK_SIZE COUNT
  tail -c +$(($1 * 7003 + $2)) /tmp/lines | head -c $(($2 * $3))
}

write_and_compare() { # BLOCK_SIZE COUNT
  nbd_up /dev/nbd0 -C 2 -b "$1"
  [ "$(blockdev --getss /dev/nbd0)" = "$1" ]
  writers=''
  for writer in 1 2 3 4; do
    pattern $writer "$1" "$2" >/tmp/plain-$writer
    dd if=/tmp/plain-$writer of=/dev/nbd0 bs="$1" oflag=direct conv=fsync \
      seek=$((writer * 8388608 / $1)) 2>/dev/null &
    writers="$writers $!"
  done
  for writer in $writers; do wait "$writer"; done
  nbd_down /dev/nbd0
  nbd_up /dev/nbd0 -C 2 -b "$1"
  for writer in 1 2 3 4; do
    dd if=/dev/nbd0 bs="$1" skip=$((writer * 8388608 / $1)) count="$2" 2>/dev/null |
      cmp - /tmp/plain-$writer
  done
  nbd_down /dev/nbd0
  echo "block size $1: 4 writers, $(($1 * $2 * 4)) bytes, equal"
}

write_and_compare 4096 384
write_and_compare 512 1000
