# shellcheck shell=bash
# What build and build-debian share: packages in a cache folder, tools run from
# there, kernel modules, and a disk put together without mount or loop device.
#
# Nothing is installed on this machine. Packages are downloaded by apt into
# CACHE/guest-image and unpacked with dpkg-deb; their programs run from the
# unpacked tree with the tree's own loader and libraries, so the tree's libc need
# not be the machine's.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${KILONOVA_CACHE:-/var/cache/kilonova}
mirror=http://deb.debian.org
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
refresh=0
tree= kver= tools= extra_tools=

die() { echo "${0##*/}: $*" >&2; exit 1; }

# apt that knows only Debian 12, keeps its state in $1 and thinks nothing is installed
private_apt() { # private_apt DIR COMMAND ARG...
  local d=$1 cmd=$2; shift 2
  "$cmd" -q -o Dir::State="$d" -o Dir::State::lists="$d/lists" -o Dir::State::status="$d/status" \
    -o Dir::Cache="$d" -o Dir::Cache::archives="$d/archives" -o Dir::Etc::sourcelist="$d/sources.list" \
    -o Dir::Etc::sourceparts="$d/none" -o Dir::Etc::preferencesparts="$d/none" -o Dir::Etc::preferences="$d/none/x" \
    -o Dir::Log="$d" -o Dir::Log::Planner="$d/planner.log" \
    -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o APT::Sandbox::User= \
    -o APT::Get::List-Cleanup=0 -o APT::Update::Post-Invoke-Success::= -o Acquire::Retries=3 "$@"
}

apt_setup() { # apt_setup DIR: package lists of Debian 12 in DIR
  local d=$1 s
  mkdir -p "$d/lists/partial" "$d/archives/partial" "$d/none"
  : >"$d/status"
  [ -e $keyring ] || die "$keyring is missing (package debian-archive-keyring)"
  for s in "debian bookworm" "debian bookworm-updates" "debian-security bookworm-security"; do
    echo "deb [arch=amd64 signed-by=$keyring] $mirror/$s main"
  done >"$d/sources.list"
  private_apt "$d" apt-get update >"$d/update.log" 2>&1 || { cat "$d/update.log" >&2; die "apt-get update failed"; }
}

# fetch KEY PACKAGE...: set $tree to a folder with these packages, what they
# depend on, and the newest cloud kernel, unpacked. Downloads only once per KEY.
fetch() {
  local key=$1 d t k; shift
  d=$cache/guest-image
  tree=$d/$key-$(echo "$* $mirror" | sha256sum | cut -c1-12)
  if [ $refresh = 0 ] && [ -e "$tree/.complete" ]; then find_kernel; return; fi
  mkdir -p "$d" 2>/dev/null && [ -w "$d" ] || die "cannot write $d (give --cache DIR or set KILONOVA_CACHE)"
  exec 9>"$d/lock"; flock 9   # another build may be filling the cache
  if [ $refresh = 1 ] || [ ! -e "$tree/.complete" ]; then
    t=$(mktemp -d "$d/new.XXXXXX")
    apt_setup "$t/apt"
    k=$(private_apt "$t/apt" apt-cache depends linux-image-cloud-amd64 | awk '$1=="Depends:"{print $2; exit}')
    private_apt "$t/apt" apt-get install -y --download-only --no-install-recommends "$@" >"$t/log" 2>&1 &&
      (cd "$t/apt/archives" && private_apt "$t/apt" apt-get download "$k") >>"$t/log" 2>&1 ||
      { cat "$t/log" >&2; rm -rf "$t"; die "cannot download packages"; }
    mkdir "$t/tree"
    for k in "$t"/apt/archives/*.deb; do
      dpkg-deb -x "$k" "$t/tree"; basename "$k" .deb
    done | sort >"$t/packages"
    find "$t/tree" -type l -lname '/*' | while read -r k; do  # a link must not leave the tree
      ln -snfr "$t/tree$(readlink "$k")" "$k"
    done
    index_modules "$t/tree"
    mv "$t/packages" "$t/tree/.complete"
    rm -rf "$tree"; mv "$t/tree" "$tree"; rm -rf "$t"
  fi
  flock -u 9; exec 9>&-
  find_kernel
}

find_kernel() {
  local k
  for k in "$tree"/boot/vmlinuz-*; do kver=${k##*/vmlinuz-}; done
  [ -n "$kver" ] || die "no kernel in $tree"
}

index_modules() { # index_modules TREE: write modules.dep, which only an installation does
  local k
  for k in "$1"/lib/modules/*; do
    "$1/lib64/ld-linux-x86-64.so.2" --argv0 depmod --library-path "$1/lib/x86_64-linux-gnu:$1/usr/lib/x86_64-linux-gnu" \
      "$1/bin/kmod" -b "$1" "${k##*/}"
  done
}

# the loader and libraries of the tree, as words of a command line
loader() { # loader [ARG...]
  "$tree/lib64/ld-linux-x86-64.so.2" --library-path \
    "$tree/lib/x86_64-linux-gnu:$tree/usr/lib/x86_64-linux-gnu" "$@"
}

find_program() { # find_program NAME: its path in the tree
  local p
  for p in sbin usr/sbin bin usr/bin; do
    if [ -e "$tree/$p/$1" ]; then echo "$tree/$p/$1"; return; fi
  done
  die "$1 is not in $tree"
}

# make_tools DIR: put wrappers for the tree's tools first on PATH
make_tools() {
  local t; tools=$1; mkdir -p "$tools"
  local p
  for t in mke2fs debugfs mkfs.vfat mcopy mattrib mmove syslinux sfdisk cpio depmod modprobe $extra_tools; do
    p=$(find_program $t)
    cat >"$tools/$t" <<E
#!/bin/sh
GCONV_PATH='$tree/usr/lib/x86_64-linux-gnu/gconv' MTOOLS_SKIP_CHECK=1
export GCONV_PATH MTOOLS_SKIP_CHECK
exec '$tree/lib64/ld-linux-x86-64.so.2' --argv0 $t --library-path '$tree/lib/x86_64-linux-gnu:$tree/usr/lib/x86_64-linux-gnu' '$p' "\$@"
E
    chmod 755 "$tools/$t"
  done
  ln -sf "$(find_program busybox)" "$tools/busybox"
  export PATH=$tools:/usr/sbin:/sbin:$PATH
}

# put ROOT PROGRAM DIR: copy a program of the tree and its libraries into ROOT
put() {
  local root=$1 b l; b=$(find_program "$2")
  cp -L "$b" "$root$3/"
  loader --list "$b" | grep -o "$tree/[^ ]*" | while read -r l; do
    l=${l#"$tree"}
    case $l in *ld-linux*) l=/lib64/ld-linux-x86-64.so.2;; esac
    mkdir -p "$root${l%/*}"; [ -e "$root$l" ] || cp -L "$tree$l" "$root$l"
  done
}

# mods ROOT NAME...: copy kernel modules and what they depend on into ROOT
mods() {
  local root=$1 md=/lib/modules/$kver m f; shift
  mkdir -p "$root$md"
  for m in "$@"; do
    { modprobe -d "$tree" -S "$kver" --show-depends "$m" 2>/dev/null || true; } | awk '$1=="insmod"{print $2}'
  done | sort -u | while read -r f; do
    f=/lib/modules/${f##*/lib/modules/}
    mkdir -p "$root${f%/*}"; cp "$tree$f" "$root$f"
  done
  cp "$tree$md"/modules.builtin "$tree$md"/modules.builtin.modinfo "$tree$md"/modules.order "$root$md/"
  depmod -b "$root" "$kver"
}

boot_mods="virtio_pci virtio_blk virtio_scsi sd_mod ata_piix nvme"

# make_initrd WORK LABEL-OF-THE-BOOT-FILE: write WORK/initrd
make_initrd() {
  local i=$1/initramfs
  mkdir -p "$i"/{bin,lib,proc,sys,dev,root}
  cp "$(find_program busybox)" "$i/bin/busybox"
  cp "$here/initramfs/init" "$i/init"
  # shellcheck disable=SC2086
  mods "$i" $boot_mods
  (cd "$i" && find . -print0 | LC_ALL=C sort -z | cpio --null -o -H newc -R 0:0 --quiet --reproducible) >"$1/initrd"
}

# make_root_fs IMAGE MIB LABEL UUID DIR: ext4 holding DIR, everything owned by
# root except home/guest, whoever runs this. KEEP_OWNERS=1: owners as in DIR.
make_root_fs() {
  local img=$1 mib=$2 label=$3 uuid=$4 dir=$5
  mke2fs -q -t ext4 -b 4096 ${inodes:+-N $inodes} -m 1 -O ^metadata_csum_seed,^orphan_file -E root_owner=0:0,lazy_itable_init=1,nodiscard \
    -J size=4 -L "$label" -U "$uuid" -d "$dir" "$img" "${mib}M" >"$img.log" 2>&1 || { cat "$img.log" >&2; die "mke2fs failed"; }
  if [ "${KEEP_OWNERS:-0}" = 0 ]; then
    (cd "$dir" && find . -mindepth 1) | while read -r f; do
      f=${f#.} o=0
      case $f in /home/guest|/home/guest/*) o=1000;; esac
      echo "sif \"$f\" uid $o"; echo "sif \"$f\" gid $o"
    done >"$img.own"
    debugfs -w -f "$img.own" "$img" >"$img.log" 2>&1 || { cat "$img.log" >&2; die "debugfs failed"; }
  fi
}

# make_disk WORK MIB LABEL ID APPEND: WORK/disk.img with a boot partition (FAT,
# syslinux, WORK/vmlinuz, WORK/initrd) and WORK/root.img behind it.
make_disk() {
  local w=$1 size=$2 label=$3 id=$4 append=$5
  # 32 KiB clusters: the boot loader reads the kernel in few, large requests,
  # which halves the time to boot under TCG
  truncate -s ${bootm}M "$w/boot.img"
  mkfs.vfat -F 12 -s 64 -n BOOT -i "$id" "$w/boot.img" >/dev/null
  printf '%s\n' "DEFAULT guest" "PROMPT 0" "TIMEOUT 0" "LABEL guest" "  KERNEL /vmlinuz" "  INITRD /initrd" \
    "  APPEND root=LABEL=$label $append" >"$w/syslinux.cfg"
  mcopy -i "$w/boot.img" "$w/vmlinuz" "$w/initrd" "$w/syslinux.cfg" ::/
  (cd "$w" && syslinux --install boot.img)
  truncate -s "${size}M" "$w/disk.img"
  sfdisk -q --no-reread --no-tell-kernel "$w/disk.img" <<E
label: dos
label-id: 0x$id
start=2048, size=$((bootm*2048)), type=e, bootable
start=$(((bootm+1)*2048)), type=83
E
  dd if="$tree/usr/lib/syslinux/mbr/mbr.bin" of="$w/disk.img" bs=440 count=1 conv=notrunc status=none
  dd if="$w/boot.img" of="$w/disk.img" bs=1M seek=1 conv=notrunc,sparse status=none
  dd if="$w/root.img" of="$w/disk.img" bs=1M seek=$((bootm+1)) conv=notrunc,sparse status=none
}

# write_image RAW FORMAT OUTPUT: an older OUTPUT stays whole until the new one is
write_image() {
  mkdir -p "$(dirname "$3")"
  if [ "$2" = raw ]; then cp --sparse=always "$1" "$3.new"
  else qemu-img convert -c -f raw -O qcow2 "$1" "$3.new"; fi
  mv "$3.new" "$3"
}

bootm=24   # MiB of the boot partition: it begins at 1 MiB, the root behind it
