# shellcheck shell=busybox
# The files that one guest writes and another checks. Their contents follow from their
# numbers, so the check needs nothing from the disk but the files themselves.

FILES=9
seq 1000001 1262144 >/tmp/lines # 2 MiB in which every block differs

file_content() { # NUMBER: about 2 MiB, shifted so that no two files have a block alike
  tail -c +$(($1 * 7003)) /tmp/lines
}

write_files() { # FOLDER: each file is on the disk for good when this returns
  local number=1
  while [ $number -le $FILES ]; do
    file_content $number | dd of="$1/file-$number" bs=64k conv=fsync 2>/dev/null || return
    number=$((number + 1))
  done
  # Renamed, deleted and holed files put metadata, trims and zeros on the disk as well.
  mkdir "$1/folder" && mv "$1/file-1" "$1/folder/file-1" && rm "$1/file-2" &&
    dd if=/tmp/lines of="$1/sparse" bs=4096 count=1 seek=5000 conv=fsync 2>/dev/null
}

check_files() { # FOLDER
  local number=3
  file_content 1 | cmp - "$1/folder/file-1" || return
  [ ! -e "$1/file-2" ] || { echo "a deleted file is back"; return 1; }
  while [ $number -le $FILES ]; do
    file_content $number | cmp - "$1/file-$number" || return
    number=$((number + 1))
  done
  head -c 20480000 /dev/zero | cmp -n 20480000 - "$1/sparse" || return
  [ "$(stat -c %s "$1/sparse")" = 20484096 ] || { echo "a sparse file has another size"; return 1; }
  head -c 4096 /tmp/lines >/tmp/end && tail -c 4096 "$1/sparse" | cmp - /tmp/end
}
