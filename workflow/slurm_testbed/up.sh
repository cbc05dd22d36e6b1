#!/usr/bin/env bash
# Starts a real SLURM on this one machine, for the tests: a controller and two nodes with two pretend GPUs each.
#
#   workflow/slurm_testbed/up.sh FOLDER [--accounting]      (root; stop it with down.sh FOLDER)
#
# FOLDER receives everything it writes, but for links to its configuration in /etc/slurm, where SLURM's commands look:
# Snakemake strips SLURM_* from a job's environment. Debian packages: slurmctld slurmd slurm-client munge, and for
# --accounting (job records that outlive the job: sacct) slurmdbd mariadb-server.
set -euo pipefail

usage="usage: up.sh FOLDER [--accounting]"
source=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:?$usage}"
folder=$(cd "$1" && pwd)
accounting=${2:-}
host=$(hostname -s)

[ -z "$accounting" ] || [ "$accounting" = --accounting ] || { echo "$usage" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "up.sh: SLURM's daemons need root" >&2; exit 2; }
if [ -e /etc/slurm/slurm.conf ]; then
  echo "up.sh: /etc/slurm/slurm.conf exists: this machine has a SLURM already" >&2
  exit 2
fi

# Runs the rest of the arguments until they succeed, for at most the first argument's number of tenths of a second.
wait_for() {
  local left=$1
  shift
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    [ "$left" -gt 0 ] || { echo "up.sh: waited in vain for: $*" >&2; exit 1; }
    sleep .1
  done
}

start_munge() {
  install -d -m 755 /run/munge # its default socket: slurmdbd's connections know no other
  [ -s "$folder/munge/key" ] || (umask 077 && dd if=/dev/urandom of="$folder/munge/key" bs=1024 count=1 status=none)
  munged --force --key-file="$folder/munge/key" --socket=/run/munge/munge.socket.2 --seed-file="$folder/munge/seed" \
    --pid-file="$folder/run/munged.pid" --log-file="$folder/log/munged.log" >/dev/null 2>&1 </dev/null
}

start_database() {
  local socket=$folder/db/db.sock
  chown -R mysql:mysql "$folder/db"
  [ -d "$folder/db/mysql" ] || mariadb-install-db --user=mysql --datadir="$folder/db" \
    --auth-root-authentication-method=normal >"$folder/log/db-install.log" 2>&1
  setsid mariadbd --no-defaults --user=mysql --datadir="$folder/db" --socket="$socket" --pid-file="$folder/db/db.pid" \
    --port=16306 --bind-address=127.0.0.1 --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 \
    >"$folder/log/mariadbd.log" 2>&1 </dev/null &
  wait_for 300 mariadb --no-defaults -S "$socket" -uroot -e 'select 1'
  mariadb --no-defaults -S "$socket" -uroot -e "
    create database if not exists slurm_acct_db;
    create user if not exists 'slurm'@'localhost' identified by 'slurm';
    create user if not exists 'slurm'@'127.0.0.1' identified by 'slurm';
    grant all on slurm_acct_db.* to 'slurm'@'localhost';
    grant all on slurm_acct_db.* to 'slurm'@'127.0.0.1';"
}

start_accounting() {
  (umask 077 && sed -e "s|@HOST@|$host|g;s|@DIR@|$folder|g" "$source/slurmdbd.conf.in" >"$folder/etc/slurmdbd.conf")
  ln -sfn "$folder/etc/slurmdbd.conf" /etc/slurm/slurmdbd.conf
  slurmdbd >/dev/null 2>&1 </dev/null
  wait_for 300 timeout 5 sacctmgr -n show cluster
  sacctmgr -i add cluster testbed >/dev/null 2>&1 || true # they may be there from an earlier start
  sacctmgr -i add account lab >/dev/null 2>&1 || true
  sacctmgr -i add user root account=lab >/dev/null 2>&1 || true
}

all_idle() { [ "$(sinfo -h -p cpu -t idle -o %D)" = 2 ]; }

mkdir -p "$folder"/{etc,run,log,state,spool/node1,spool/node2,munge,db} /etc/slurm
chmod 755 "$folder" "$folder/munge"
records="AccountingStorageType=accounting_storage/none"
[ -z "$accounting" ] || records="AccountingStorageType=accounting_storage/slurmdbd\n\
AccountingStorageHost=127.0.0.1\nAccountingStoragePort=16819\nAccountingStorageTRES=gres/gpu"
sed -e "s|@HOST@|$host|g;s|@DIR@|$folder|g;s|@ACCOUNTING@|$records|" "$source/slurm.conf.in" >"$folder/etc/slurm.conf"
cp "$source/gres.conf" "$source/cgroup.conf" "$folder/etc/"
for file in slurm.conf gres.conf cgroup.conf; do ln -sfn "$folder/etc/$file" "/etc/slurm/$file"; done

unset SLURM_CONF
start_munge
if [ -n "$accounting" ]; then
  start_database
  start_accounting
fi
# Daemons keep what they inherit: a pipe on standard output would never close.
slurmctld >/dev/null 2>&1 </dev/null
for node in node1 node2; do slurmd -N "$node" >/dev/null 2>&1 </dev/null; done
wait_for 300 all_idle
sinfo -N -o "%N %P %T %c %m %G"
