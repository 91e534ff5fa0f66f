#!/bin/sh
# After an installation and an upgrade. A running member is left alone: whoever
# upgrades chooses the moment.
set -e
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
if systemctl -q is-active pgsidecar; then
    echo "pgsidecar: the previous version still runs. To start this one, while PostgreSQL runs on:"
    echo "  systemctl kill --kill-whom=main -s USR1 pgsidecar"
fi
