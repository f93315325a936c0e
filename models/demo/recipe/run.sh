#!/bin/sh
# Makes the demo model again, in the folder WORK: run.sh WORK [SECONDS OF TRAINING]
# Needs, from Debian: python3-torch python3-numpy python3-regex bible-kjv; and Node's npm. The seconds stand for the learning
# rate's course: 4200 on two cores gave the weights beside this. Newer texts, packages or another machine give another model.
set -e
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
for package in manpages manpages-dev manpages-de manpages-fr; do
  [ -d "x_$package" ] && continue
  apt-get download "$package"
  dpkg-deb -x "$package"_*.deb "x_$package"
done
[ -d node_modules ] || npm install --no-save --ignore-scripts --no-package-lock \
  bullmq ioredis @grpc/grpc-js protobufjs @huggingface/tokenizers
[ -s kjv.txt ] || echo 'Ge1:1-Re22:21' | bible -f -l 0 >kjv.txt
/usr/bin/python3 "$here/prepare.py"
/usr/bin/python3 "$here/tokenizer.py"
# Without these three, allocation takes nine tenths of the time.
OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=2 MALLOC_MMAP_MAX_=0 /usr/bin/python3 "$here/train.py" "${2:-4200}"
cp tokenizer.json tokenizer_config.json out/
