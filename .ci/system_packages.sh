#!/bin/sh
# Install the Debian packages named as arguments that are missing; without root, say the command.
# Never fails: what cannot be had is reported where it is needed.
missing=""
for package in "$@"; do
    dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' \
        || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "No apt-get here; install the equivalents of:$missing"
elif [ "$(id -u)" != 0 ]; then
    echo "Not root, going on without some system packages. To add them: sudo apt-get install$missing"
else
    echo "Installing system packages:$missing"
    # Without what is recommended beside them: a browser's are printers and a desktop.
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends $missing; } \
        >/dev/null 2>&1 || echo "Some system packages could not be installed:$missing"
fi
exit 0
