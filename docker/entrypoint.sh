#!/bin/sh
# How every container of the platform's own images starts. It runs as the image's user, on a
# read-only root, and execs the command, which so gets the signals.
set -eu

# Serving and the assets are different users of one group: what one writes, the other may use.
umask 0007

# Numba takes a cache only where it may write. The one that was compiled into the image is copied
# to memory, which takes milliseconds; compiling would take 17 seconds.
if [ ! -d "$NUMBA_CACHE_DIR" ]; then
  cp -r /opt/rul/numba "$NUMBA_CACHE_DIR.$$"
  mv "$NUMBA_CACHE_DIR.$$" "$NUMBA_CACHE_DIR"
fi

exec "$@"
