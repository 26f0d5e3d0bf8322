#!/usr/bin/env bash
# The Tango database as sites run it (MariaDB and the C++ DataBaseds), on free ports of this machine:
#   scripts/tango-db.sh up [FOLDER]      starts both, prints TANGO_HOST=127.0.0.1:PORT
#   scripts/tango-db.sh down [FOLDER]    ends both; what is in the database stays in FOLDER
# Debian: apt-get install mariadb-server-core mariadb-client-core tango-db libtango-tools
# (echo 'tango-db tango-db/dbconfig-install boolean false' | debconf-set-selections   first)
set -euo pipefail

action=${1:-}
folder=${2:-${XDG_STATE_HOME:-$HOME/.local/state}/nfphasing/tango-db}
schema=${TANGO_DB_SCHEMA:-/usr/share/dbconfig-common/data/tango-db/install/mysql}
server=${TANGO_DATABASEDS:-/usr/lib/tango/DataBaseds}

fail() { echo "tango-db: $*" >&2; exit 1; }

free_port() { # below those that the system gives to whoever asks for any: nobody takes it meanwhile
  python3 -c '
import random, socket
for port in random.sample(range(10000, 20000), 100):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            continue
    print(port)
    break'
}

alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

end() {
  alive "$1" || { rm -f "$1"; return 0; }
  kill "$(cat "$1")"
  for _ in $(seq 100); do alive "$1" || break; sleep 0.1; done
  if alive "$1"; then kill -KILL "$(cat "$1")"; fi
  rm -f "$1"
}

wait_for() { # WHAT LOG COMMAND...
  local what=$1 log=$2
  shift 2
  for _ in $(seq 1200); do "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done
  down
  fail "$what did not come up within two minutes; $log ends with: $(tail -n 3 "$log" | tr '\n' ' ')"
}

sql() { mariadb --no-defaults --socket="$folder/mariadb.sock" --user=root "$@"; }

up() {
  for program in mariadbd mariadb mariadb-install-db tango_admin python3; do
    PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || fail "$program is not installed; see the head of $0"
  done
  [ -x "$server" ] || fail "no $server; install tango-db, or name another in TANGO_DATABASEDS"
  [ -f "$schema" ] || fail "no $schema; install tango-db, or name another in TANGO_DB_SCHEMA"
  if alive "$folder/databaseds.pid"; then cat "$folder/tango_host"; return; fi
  end "$folder/mariadb.pid"
  mkdir -p -m 700 "$folder" # the socket lets in whoever can reach it
  folder=$(cd "$folder" && pwd)
  export PATH=$PATH:/usr/sbin
  local port tango_port
  if [ ! -f "$folder/ready" ]; then
    rm -rf "$folder/data"
    mariadb-install-db --no-defaults --datadir="$folder/data" --auth-root-authentication-method=normal \
      --skip-test-db --user="$(id -un)" >"$folder/install.log" 2>&1 || fail "see $folder/install.log"
  fi
  port=$(free_port)
  nohup mariadbd --no-defaults --datadir="$folder/data" --socket="$folder/mariadb.sock" --port="$port" \
    --bind-address=127.0.0.1 --pid-file="$folder/mariadbd.own.pid" --user="$(id -un)" \
    --innodb-buffer-pool-size=16M >"$folder/mariadb.log" 2>&1 </dev/null &
  echo $! >"$folder/mariadb.pid"
  wait_for MariaDB "$folder/mariadb.log" sql --execute="SELECT 1"
  [ -f "$folder/password" ] || (umask 077; python3 -c 'import secrets; print(secrets.token_hex(16))' >"$folder/password")
  if [ ! -f "$folder/ready" ]; then
    sql --execute="CREATE DATABASE tango; CREATE USER tango@'127.0.0.1' IDENTIFIED BY '$(cat "$folder/password")';
      GRANT ALL ON tango.* TO tango@'127.0.0.1';"
    sql tango <"$schema"
    touch "$folder/ready"
  fi
  tango_port=$(free_port)
  echo "TANGO_HOST=127.0.0.1:$tango_port" >"$folder/tango_host"
  MYSQL_HOST=127.0.0.1:$port MYSQL_USER=tango MYSQL_PASSWORD=$(cat "$folder/password") MYSQL_DATABASE=tango \
    nohup "$server" 2 -ORBendPoint "giop:tcp:127.0.0.1:$tango_port" >"$folder/databaseds.log" 2>&1 </dev/null &
  echo $! >"$folder/databaseds.pid"
  TANGO_HOST=127.0.0.1:$tango_port wait_for DataBaseds "$folder/databaseds.log" tango_admin --ping-database 1
  cat "$folder/tango_host"
}

down() {
  end "$folder/databaseds.pid"
  end "$folder/mariadb.pid"
}

case $action in
  up) up ;;
  down) down ;;
  *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
