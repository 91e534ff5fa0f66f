#!/bin/sh
# Before a removal (deb: remove, rpm: 0) the member is stopped: it hands over, if it
# is the primary, and stops its server. An upgrade stops nothing.
set -e
case "$1" in remove | 0) ;; *) exit 0 ;; esac
[ ! -d /run/systemd/system ] || systemctl disable --now pgsidecar || true
