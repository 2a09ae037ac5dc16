#!/bin/sh
# Keeps nginx' list of API instances as Docker's DNS has it, so that `--scale api=10` is noticed and
# every one gets its share (least connections). nginx 1.27.3 and newer can do that by itself
# (`server … resolve`); this works with older ones too, and stays well while DNS does not answer.
#
# None is ever marked as failed: a question that is slow everywhere would mark all, and then nobody
# is asked. One that is gone leaves the list within seconds; until then the next one is asked.
#
# Runs beside nginx: /docker-entrypoint.d/ starts it, and the loop outlives the entrypoint.
set -eu

service=${API_SERVICE:-api} port=${API_PORT:-8000} every=${API_LOOK_SECONDS:-2}
list=/tmp/api-instances.conf alive=/tmp/api-instances.looked-at

instances() { getent ahostsv4 "$service" | cut -d' ' -f1 | sort -u; }

write_list() { # ADDRESSES
  {
    for address in $1; do echo "server $address:$port max_fails=0;"; done
    # Without any instance nginx must still start, and answer 502.
    [ -n "$1" ] || echo "server 127.0.0.1:1 down;"
  } >"$list.new"
  mv "$list.new" "$list"
}

known=$(instances || true)
write_list "$known"
touch "$alive"

follow() {
  while sleep "$every"; do
    found=$(instances || true)
    touch "$alive"
    # No answer at all is DNS' fault, not the instances'.
    if [ -n "$found" ] && [ "$found" != "$known" ]; then
      known=$found
      write_list "$known"
      nginx -s reload 2>/dev/null || echo "follow-api: nginx could not be told of $(echo "$known" | tr '\n' ' ')" >&2
    fi
  done
}
follow &
