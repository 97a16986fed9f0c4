# shellcheck shell=busybox
# What every command file of tools/vm has at hand.

nbd_up() { # DEV [nbd-client options]: connect, then wait until the kernel shows the size
  local dev=$1 tries=0 size
  shift
  nbd-client "$NBD_HOST" "$NBD_PORT" "$dev" -N "$NBD_EXPORT" "$@" || return
  while [ $tries -lt 100 ]; do
    read -r size <"/sys/block/${dev##*/}/size"
    [ "${size:-0}" -gt 0 ] && return
    tries=$((tries + 1))
    sleep 0.05
  done
  echo "nbd_up: $dev shows no size" >&2
  return 1
}

nbd_down() { # DEV: write back, flush and disconnect
  sync
  blockdev --flushbufs "$1" && nbd-client -d "$1"
}
