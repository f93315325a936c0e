#!/bin/sh
# Makes TAG, a stand-in for Node's image on a machine that reaches Debian's packages and npm's registry but no image registry:
# a minimal Debian root with this machine's own node, npm, npm configuration and CA certificates.
# Needs root, debootstrap, and the docker daemon that DOCKER_HOST names. About a minute.
set -eu
tag=${1:?"usage: standin.sh TAG"}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -n 1)
[ -n "$mirror" ] || mirror=$(awk '$1 == "deb" { print $2; exit }' /etc/apt/sources.list)

debootstrap --variant=minbase --include=ca-certificates,libstdc++6 bookworm "$root" "$mirror" >&2
# As in Debian's own images: installing a package starts nothing.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"

install -m 755 "$(readlink -f "$(command -v node)")" "$root/usr/bin/node"
mkdir -p "$root/usr/lib/node_modules" "$root/usr/etc"
cp -r "$(npm root -g)/npm" "$root/usr/lib/node_modules/"
ln -s ../lib/node_modules/npm/bin/npm-cli.js "$root/usr/bin/npm"
ln -s ../lib/node_modules/npm/bin/npx-cli.js "$root/usr/bin/npx"
for file in /usr/etc/npmrc /etc/npmrc; do
  if [ -f "$file" ]; then cp "$file" "$root$file"; fi
done
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"

tar -C "$root" -c . | docker import \
  -c 'ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt' -c 'CMD ["node"]' - "$tag"
