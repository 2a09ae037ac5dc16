#!/bin/sh
# For the day when nothing else runs: restores a backup over the databases and volumes of this stack.
# `docker/scripts/restore.sh --help` says how. Safe to run again; killed, the same command goes on.
set -eu

usage() {
  cat <<'END'
Usage: docker/scripts/restore.sh [OPTION]… [ARCHIVE | MANIFEST]

Restores a backup over the databases and volumes of this stack: the newest in the volume of backups;
that of a MANIFEST there (its number, or manifests/00000007, or a run's name); or that of an ARCHIVE,
a file of `rul backup export`; or, after the loss of the machine, one from beyond it. Everything but
PostgreSQL and Redis is ended first, runs at work too, and started by nobody: `make up` does, once all
is well. What was there before is made a backup, and stays beside what is restored.

  --over-live         where the stack has been lived in: without it that is refused
  --to MOMENT         the database as it was at a moment, such as 2026-11-29T08:30:00Z, by its log; or
                      latest: all that was archived, a minute or two before the loss
  --off-site          fetches the run from STACK_BACKUP_OFFSITE first, by secrets/drill_offsite_options
  --identity FILE     decrypts, such as backup_escrow_identity from the safe
  --verify-key FILE   the public key of whoever made the backups
  --despite-golden    also where a model does not answer as it did
  --forget            instead: remove what was there before such a restore
  --help              this

On a new machine, where Dagster has no run yet, it also puts back what the stack itself had, as of the
week's snapshot: Grafana, Prometheus, logs and Dagster's database, each volume only where it is empty.
What the stack was set to comes as restored-configuration.tar; nothing is changed by it.

Without these files the keys are those in the folder that RESTORE_KEYS names, or else the secrets.
Secrets are for their containers alone, so it runs as root; in the project's folder, after `rul
secrets init`. Names are as compose.yaml, .env and the environment have them.
The files that landed and the lake are in no backup and stay as they are.
END
}

begun=$(date +%s)
say() { printf '%s\n' "restore, after $(($(date +%s) - begun)) s: $*" >&2; }
fail() { say "$*"; exit 1; }
# Secrets belong to the containers' users, so root may have to run this.
readable() {
  [ -f "$1" ] && [ -r "$1" ] && return
  folder=$(dirname "$1")
  if [ -f "$1" ] || { [ -d "$folder" ] && [ ! -x "$folder" ]; }; then
    fail "$1 is not for user $(id -u) to read; run this as root (sudo)"
  fi
  fail "$1 is no file; $2"
}
absolute() { printf '%s/%s' "$(cd "$(dirname "$1")" && pwd)" "$(basename "$1")"; }

what='' identity='' verify_key='' forget='' despite='' beyond='' moment='' over_live=''
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --identity) [ $# -gt 1 ] || fail "--identity needs a file"; identity=$2; shift ;;
    --verify-key) [ $# -gt 1 ] || fail "--verify-key needs a file"; verify_key=$2; shift ;;
    --despite-golden) despite=yes ;;
    --to) [ $# -gt 1 ] || fail "--to needs a moment, or latest"; moment=$2; shift ;;
    --off-site) beyond=yes ;;
    --over-live) over_live=yes ;;
    --forget) forget=yes ;;
    -*) fail "$1 is no option; --help says which there are" ;;
    *) [ -z "$what" ] || fail "$what and $1: name one archive or manifest"; what=$1 ;;
  esac
  shift
done
[ -z "$forget" ] || [ -z "$what$beyond$moment$over_live" ] ||
  fail "--forget takes no archive, manifest, store, moment or --over-live"
archive=''
if [ -f "$what" ]; then
  [ -z "$beyond" ] || fail "$what lies here; leave --off-site away"
  archive=$(absolute "$what")
else
  case $what in
    manifests/*) ;;
    */* | *.tar) fail "$what is no file; give an archive of \`rul backup export\`" ;;
  esac
fi

# --- all that can be wrong is looked at before anything is stopped
command -v docker >/dev/null || fail "docker is not here; install Docker Engine with Compose"
[ -f compose.yaml ] || fail "compose.yaml is not here; run this in the project's folder"
config=$(docker compose config --format json) || fail "compose.yaml or .env cannot be read: why is above"

# What Compose makes of compose.yaml, .env and the environment, by its keys: secrets.backup_system.file
told() {
  printf '%s\n' "$config" | awk -v wanted="$1" '
    match($0, /^ *"[^"]*": /) {
      key = $0; sub(/^ *"/, "", key); sub(/": .*/, "", key)
      match($0, /^ */); depth = RLENGTH / 2; keys[depth] = key
      for (i = 1; i < depth; i++) key = keys[depth - i] "." key
      if (key == wanted) { sub(/^ *"[^"]*": "/, ""); sub(/",?$/, ""); print; exit }
    }' | sed 's/\$\$/$/g; s/\\u0026/\&/g; s/\\u003c/</g; s/\\u003e/>/g; s/\\"/"/g; s/\\\\/\\/g'
}
project=$(told name)
secrets=$(dirname "$(told secrets.database_admin_url.file)")
offsite=$(told services.wal-bringer.environment.RUL_BACKUP_OFFSITE)
image=$(told services.wal-bringer.image)
# Each may be set in the environment.
: "${RESTORE_KEYS:=$secrets}"                                     # has backup_identity and the other keys
: "${RESTORE_USER:=$(told services.wal-bringer.user)}"            # owns models and fleets in the volumes
: "${RESTORE_OWNER_SECRET:=migrator_database_url}"
: "${RESTORE_ADMIN_SECRET:=database_admin_url}"
: "${RESTORE_REDIS_SECRET:=restore_redis_url}"                    # may SYNC, SCAN and UNLINK
: "${RESTORE_OFFSITE_SECRET:=drill_offsite_options}"
: "${RESTORE_NETWORK:=$(told networks.backend.name)}"
: "${RESTORE_WAY_OUT:=$(told networks.egress.name)}"
: "${RESTORE_DATABASE_VOLUME:=$(told volumes.postgres_data.name)}"
: "${RESTORE_DATA_VOLUME:=$(told volumes.training_data.name)}"    # at /data
: "${RESTORE_MODELS_VOLUME:=$(told volumes.model_artifacts.name)}" # at /data/models
: "${RESTORE_BACKUPS_VOLUME:=$(told volumes.backups.name)}"       # at /backups
: "${RESTORE_SCRATCH_VOLUME:=$(told volumes.drill_scratch.name)}" # where a moment is recovered
: "${RESTORE_UNPACKED_VOLUME:=${project}_restoring}"              # for a while, at /restoring

docker image inspect "$image" >/dev/null 2>&1 ||
  fail "the image $image is not here; build it (make images), or load it"
for name in "$RESTORE_OWNER_SECRET" "$RESTORE_ADMIN_SECRET" "$RESTORE_REDIS_SECRET"; do
  readable "$secrets/$name" "make the secrets (rul secrets init), or name their folder by STACK_SECRETS"
done
[ -z "$identity" ] || readable "$identity" "give the file from the safe"
[ -z "$verify_key" ] || readable "$verify_key" "give the public key that was kept"
[ -n "$forget$identity" ] || readable "$RESTORE_KEYS/backup_identity" \
  "put it there, name the keys' folder by RESTORE_KEYS, or give --identity"
[ -n "$forget$verify_key" ] || readable "$RESTORE_KEYS/backup_verify_key" \
  "put it there, name the keys' folder by RESTORE_KEYS, or give --verify-key"
if [ -n "$beyond" ]; then
  [ -n "$offsite" ] || fail "STACK_BACKUP_OFFSITE is not set, nor is it in .env; name the store"
  readable "$secrets/$RESTORE_OFFSITE_SECRET" "write the key of $offsite into it"
fi

# --- keys and addresses go through a pipe into the container's memory: they lie on no other disk,
# and whoever they belong to here, the container's user can read them
keys=$(mktemp -d)
trap 'rm -rf "$keys"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
makes=''
for name in backup_system backup_recipients backup_signing_key backup_verify_key backup_identity; do
  [ -f "$RESTORE_KEYS/$name" ] || continue
  ln -s "$(absolute "$RESTORE_KEYS/$name")" "$keys/$name"
  makes="$makes $name"
done
[ -z "$beyond" ] || ln -s "$(absolute "$secrets/$RESTORE_OFFSITE_SECRET")" "$keys/offsite_options"
[ -z "$identity" ] || ln -s "$(absolute "$identity")" "$keys/given_identity"
[ -z "$verify_key" ] || ln -s "$(absolute "$verify_key")" "$keys/given_verify_key"
ln -s "$(absolute "$secrets/$RESTORE_OWNER_SECRET")" "$keys/owner_url"
ln -s "$(absolute "$secrets/$RESTORE_ADMIN_SECRET")" "$keys/admin_url"
ln -s "$(absolute "$secrets/$RESTORE_REDIS_SECRET")" "$keys/redis_url"
if [ -n "$identity" ]; then opens=given_identity; else opens=backup_identity; fi
if [ -n "$verify_key" ]; then checks=given_verify_key; else checks=backup_verify_key; fi

# A container of the backup image with these keys in its memory: their names, more of Docker's options,
# the image, `sh -c "$unpack" restore`, and a command.
unpack='umask 077; mkdir /tmp/keys; tar -xf - -C /tmp/keys; umask 007; exec "$@"'
store='' # its volume, once it is there
contained() {
  names=$1
  shift
  # shellcheck disable=SC2086 # names of keys are words
  tar -chf - -C "$keys" $names | docker run --rm --interactive --user "$RESTORE_USER" \
    --read-only --cap-drop ALL --security-opt no-new-privileges --init \
    --tmpfs /tmp:size=256m,mode=1777 ${store:+--volume "$store:/backups"} \
    ${archive:+--mount "type=bind,\"source=$archive\",target=/restore/archive.tar,readonly"} \
    --env RUL_BACKUP_STORE=/backups --env RUL_BACKUP_KEYS=/tmp/keys "$@"
}

# Which run, as commands in containers are told; by its name, since what it is now by its number, as the
# newest or as the archive's is another once what was there is a backup too.
set --
[ -z "$identity" ] || set -- "$@" --identity /tmp/keys/given_identity
[ -z "$verify_key" ] || set -- "$@" --verify-key /tmp/keys/given_verify_key
reads='' # the volume of data, which tells of a restore that was interrupted there
named() {
  contained "$opens $checks" --network none ${reads:+--volume "$reads:/data:ro"} \
    "$image" sh -c "$unpack" restore rul backup which ${moment:+--to "$moment"} "$@"
}
run=''
if [ -n "$archive" ]; then
  docker run --rm --network none --user "$RESTORE_USER" --entrypoint test \
    --mount "type=bind,\"source=$archive\",target=/restore/archive.tar,readonly" \
    "$image" -r /restore/archive.tar ||
    fail "user $RESTORE_USER in a container cannot read $what; it is encrypted, so let others: chmod a+r $what"
  set -- "$@" --store /restore/archive.tar
  run=$(named "$@") || fail "$what cannot be restored: why is above; nothing was changed"
  asked=$run
elif [ -n "$beyond" ]; then
  asked="${what:-the newest} of $offsite"
else
  asked=${what:-the newest}
fi
asked="$asked${moment:+ to $moment}"

# --- over what lives only where that is said
label() {
  docker volume inspect --format "{{index .Labels \"$1\"}}" "$RESTORE_UNPACKED_VOLUME" 2>/dev/null || true
}
refuse() {
  fail "$1, so what lives here would be exchanged; add --over-live if that is meant; nothing was changed"
}
# Until a restore on a new machine has ended, this volume says that it was new.
began=$(label rul.began)
if [ -z "$forget$over_live$began" ]; then
  for volume in "$RESTORE_DATABASE_VOLUME" "$RESTORE_DATA_VOLUME" "$RESTORE_MODELS_VOLUME"; do
    ! docker volume inspect "$volume" >/dev/null 2>&1 || refuse "the volume $volume is there"
  done
  began=new
  docker volume create --label rul.began=new "$RESTORE_UNPACKED_VOLUME" >/dev/null
fi

# Whether Dagster has a run: until then nobody has lived here. (Where its database or tables are not
# there yet, psql fails.)
lived() {
  docker compose exec -T postgres psql -U postgres -d dagster -Atc \
    "SELECT 'lived' FROM runs LIMIT 1" </dev/null 2>/dev/null | grep -qx lived
}

say "starts PostgreSQL and Redis"
docker compose up --detach --wait --no-build --no-recreate postgres redis ||
  fail "PostgreSQL or Redis does not start: why is above"

# Into the volume of backups; it stays until all has ended well, and is fetched once.
fetched=/backups/.from-beyond-$(printf '%s' "$asked" | cksum | cut -d ' ' -f 1).tar
# Nothing stays but what lives.
clean_up() {
  if [ -n "$beyond" ]; then
    docker run --rm --network none --user "$RESTORE_USER" --entrypoint sh \
      --volume "$RESTORE_BACKUPS_VOLUME:/backups" "$image" \
      -c 'rm -f /backups/.from-beyond* /backups/..from-beyond*' ||
      say "$fetched stays in $RESTORE_BACKUPS_VOLUME; remove it"
  fi
  docker volume rm --force "$RESTORE_UNPACKED_VOLUME" >/dev/null
  say "is done; look at it, then start the rest: make up"
}
# A program that looks at what was unpacked.
looking() {
  program=$1
  shift
  docker run --rm --network none --user "$RESTORE_USER" --entrypoint "$program" \
    --read-only --cap-drop ALL --security-opt no-new-privileges \
    --volume "$RESTORE_UNPACKED_VOLUME:/restoring:ro" "$image" "$@"
}
if [ -z "$forget$over_live" ] && lived; then
  if [ "$(label rul.asked)" = "$asked" ] && looking test -e /restoring/.last; then
    clean_up # killed once the last thing was back
    exit 0
  fi
  refuse "Dagster has runs here"
fi

# Whether the same command restored the platform, and broke off after that: the volume in which what
# the stack had is unpacked says so, since it is made then and removed at the end.
goes_on=''
store=$RESTORE_BACKUPS_VOLUME
if [ -z "$forget" ]; then
  # For the way out and the volumes.
  docker compose create --no-build --no-recreate wal-bringer dagster-drill ||
    fail "the stack's networks and volumes cannot be made: why is above"
  if [ "$(label rul.asked)" = "$asked" ] && ! lived; then
    goes_on=yes
    run=$(label rul.run)
  fi
fi

fetch() {
  wanted=${run:-$what}
  before=''
  [ -n "$wanted" ] || [ "$moment" = latest ] || before=$moment
  contained "$checks offsite_options" --network "$RESTORE_WAY_OUT" --env "RUL_BACKUP_OFFSITE=$offsite" \
    --env RUL_BACKUP_OFFSITE_OPTIONS_FILE=/tmp/keys/offsite_options \
    "$image" sh -c "$1; $unpack" restore \
    rul backup export --store off-site --to "$fetched" ${wanted:+--run "$wanted"} \
    ${moment:+--with-log} ${before:+--before "$before"} \
    ${verify_key:+--verify-key /tmp/keys/given_verify_key} ||
    fail "it cannot be fetched: why is above; nothing was changed"
}
if [ -n "$beyond" ]; then
  say "fetches from $offsite"
  if [ -n "$goes_on" ]; then
    fetch "[ ! -f $fetched ] || exit 0"
  else
    fetch 'rm -f /backups/.from-beyond* /backups/..from-beyond*' # the second are halves
  fi
  set -- "$@" --store "$fetched"
fi
if [ -z "$forget$run" ]; then
  [ -n "$beyond" ] || reads=$RESTORE_DATA_VOLUME
  run=$(named ${what:+--run "$what"} "$@") ||
    fail "there is no such run to restore: why is above; name a run or an archive, or give --off-site"
fi
[ -n "$forget" ] || set -- --run "$run" "$@"

# --- PostgreSQL has room for what is restored, beside what lives, or nothing is begun
if [ -z "$forget$goes_on" ]; then
  ! docker volume inspect "$RESTORE_DATA_VOLUME" >/dev/null 2>&1 || reads=$RESTORE_DATA_VOLUME
  needs=$(contained "$opens $checks" --network none ${reads:+--volume "$reads:/data:ro"} \
    "$image" sh -c "$unpack" restore rul backup needs ${moment:+--to "$moment"} "$@") ||
    fail "nobody knows how much room it needs: why is above; nothing was changed"
  free=$(docker compose exec -T postgres df -Pk /var/lib/postgresql/data </dev/null |
    sed -n '2s/^.* \([0-9][0-9]*\)  *[0-9]*% .*$/\1/p')
  [ -n "$free" ] || fail "PostgreSQL's container does not say how much room its disk has; nothing was changed"
  [ "$((free * 1024))" -ge "$needs" ] ||
    fail "PostgreSQL's disk has $((free / 1024)) MiB free, and the restore needs about $((needs / 1048576)); make room; nothing was changed"
fi

# --- what writes is ended
# What Compose does not stop: runs that Dagster made, and what people run.
others() {
  docker ps --quiet --filter "label=rul.stack=$project"
  docker ps --quiet --filter "label=com.docker.compose.project=$project" \
    --filter label=com.docker.compose.oneoff=True
}
if [ -z "$forget" ]; then
  say "stops everything but PostgreSQL and Redis"
  # shellcheck disable=SC2046 # names of services are words
  docker compose stop $(docker compose config --services | grep -vx -e postgres -e redis) ||
    fail "the services do not stop: why is above; nothing was restored"
  # The daemon, which makes runs, has ended: no more come.
  found=$(others)
  if [ -n "$found" ]; then
    say "ends the runs at work"
    # shellcheck disable=SC2086 # names of containers are words
    docker stop --time 30 $found >/dev/null || true # one may have ended by itself: looked at below
  fi
  found=$(others | tr '\n' ' ')
  [ -z "$found" ] ||
    fail "these containers do not end: $found; end them (docker rm --force), and run this again; nothing was restored"
fi
if ! docker compose exec -T postgres psql -U postgres -Atc \
  "SELECT 'there' FROM pg_database WHERE datname = 'rul'" </dev/null | grep -qx there; then
  say "the platform's database is not there: makes its roles and an empty one"
  docker compose run --rm -T migrate </dev/null || fail "the database cannot be made: why is above"
fi

if [ -n "$goes_on" ]; then
  say "the platform is restored already, from the run $run: goes on after that"
else
  if [ -n "$forget" ]; then how=--forget; else how=--over-live; say "restores the run $run"; fi
  contained "$makes ${identity:+given_identity} ${verify_key:+given_verify_key} owner_url admin_url redis_url" \
    --network "$RESTORE_NETWORK" \
    --volume "$RESTORE_DATA_VOLUME:/data" --volume "$RESTORE_MODELS_VOLUME:/data/models" \
    ${moment:+--volume "$RESTORE_SCRATCH_VOLUME:/scratch"} \
    --env RUL_ROOT=/data --env RUL_DATABASE_URL_FILE=/tmp/keys/owner_url \
    --env RUL_DATABASE_ADMIN_URL_FILE=/tmp/keys/admin_url \
    --env RUL_REDIS_URL_FILE=/tmp/keys/redis_url \
    "$image" sh -c "$unpack" restore \
    rul backup restore "$how" ${despite:+--despite-golden} ${moment:+--to "$moment"} "$@" ||
    fail "it did not end well: what it said is above; nothing else was started"
fi

# --- what the stack itself had. Dagster's database comes last: until it has a run, all is done again.

# In an empty volume: copied into a folder, which is renamed once it is whole, then moved up. Killed
# before that it begins anew, afterwards it goes on.
settle='
cd /volume
if [ ! -e .restored ]; then
  rm -rf .restoring
  if [ -n "$(find . -type f -print -quit)" ]; then
    echo "restore: the volume of $1 has files already and stays as it is" >&2
    exit 0
  fi
  cp -r "/restoring/stack/$1" .restoring
  chmod -R "$2" .restoring
  mv .restoring .restored
fi
find .restored -mindepth 1 -maxdepth 1 -exec mv -t . {} +
rmdir .restored'
# A folder of what was kept, its volume, the service whose image says whose the volume is, the user who
# writes to it, and who may read it.
put() {
  printf '%s\n' "$unpacked" | grep -qx "$1" || return 0
  say "puts back $1"
  docker compose create --no-build "$3" ||
    fail "$3 cannot be made: why is above; put its image here, and run this again"
  docker run --rm --network none --user "$4" --group-add "${RESTORE_USER#*:}" --entrypoint sh \
    --read-only --cap-drop ALL --security-opt no-new-privileges \
    --volume "$RESTORE_UNPACKED_VOLUME:/restoring:ro" --volume "$(told "volumes.$2.name"):/volume" \
    "$image" -euc "$settle" settle "$1" "$5" || fail "$1 was not put back: why is above"
}

if [ -z "$forget" ] && ! lived; then
  say "unpacks what the stack itself had"
  if [ -z "$goes_on" ]; then
    docker volume rm --force "$RESTORE_UNPACKED_VOLUME" >/dev/null
    docker volume create ${began:+--label "rul.began=$began"} --label "rul.asked=$asked" \
      --label "rul.run=$run" "$RESTORE_UNPACKED_VOLUME" >/dev/null
  fi
  contained "$opens $checks" --network none --volume "$RESTORE_UNPACKED_VOLUME:/restoring" \
    "$image" sh -c "rm -rf /restoring/* /restoring/.[!.]*; $unpack" restore \
    rul backup restore-stack --into /restoring/stack "$@" ||
    fail "the platform is restored, what the stack had is not: why is above; run this again"
  unpacked=$(looking find /restoring -mindepth 2 -maxdepth 2 -printf '%f\n')
  put grafana grafana_data grafana 472:10000 u=rwX,g=rX,o=
  put prometheus prometheus_data prometheus 65534:65534 u=rwX,go=rX
  put dagster_logs dagster_logs dagster-janitor "$RESTORE_USER" ug=rwX,o=
  if printf '%s\n' "$unpacked" | grep -qx configuration; then
    looking tar -cf - -C /restoring/stack/configuration . >restored-configuration.tar ||
      fail "restored-configuration.tar cannot be written: why is above"
    say "restored-configuration.tar has what the stack was set to; compare it with .env and the files here"
  fi
  docker run --rm --network none --user "$RESTORE_USER" --entrypoint touch \
    --volume "$RESTORE_UNPACKED_VOLUME:/restoring" "$image" /restoring/.last ||
    fail "the volume $RESTORE_UNPACKED_VOLUME cannot be written: why is above; run this again"
  contained "$opens $checks admin_url" --network "$RESTORE_NETWORK" \
    --env RUL_DATABASE_ADMIN_URL_FILE=/tmp/keys/admin_url \
    "$image" sh -c "$unpack" restore rul backup restore-stack --dagster "$@" ||
    fail "Dagster's database was not put back: why is above; run this again"
fi
[ -n "$forget" ] || clean_up
