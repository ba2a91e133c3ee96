#!/bin/sh
# Makes certificates for static mode with nothing but openssl.
#
#   certificates.sh DIR                    DIR/ca.pem and DIR/ca-key.pem, if they are not there
#   certificates.sh DIR NAME SPIFFE_ID     also DIR/NAME.pem and DIR/NAME-key.pem
set -eu
dir=$1
umask 077
mkdir -p "$dir"

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

if ! test -e "$dir/ca.pem"; then
    key "$dir/ca-key.pem"
    openssl req -x509 -new -key "$dir/ca-key.pem" -subj "/O=A mesh's root" -days 30 \
        -addext "basicConstraints=critical,CA:TRUE" \
        -addext "keyUsage=critical,keyCertSign,cRLSign" -out "$dir/ca.pem"
fi
test $# -ge 3 || exit 0

name=$2 id=$3
key "$dir/$name-key.pem"
cat >"$dir/$name.ext" <<END
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = URI:$id
END
openssl req -new -key "$dir/$name-key.pem" -subj "/O=$name" |
    openssl x509 -req -CA "$dir/ca.pem" -CAkey "$dir/ca-key.pem" -days 7 \
        -set_serial "0x$(openssl rand -hex 8)" -extfile "$dir/$name.ext" \
        -out "$dir/$name.pem" 2>/dev/null
rm "$dir/$name.ext"
