#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec >/dev/console 2>&1
D=/run/metadata; mkdir -p $D
url=http://169.254.169.254


# 1. addresses by DHCP, all interfaces at once
pids=
for s in /sys/class/net/eth*; do
  [ -e $s ] || continue
  ifdhcp ${s##*/} & pids="$pids $!"
done

# 2. config drive: a volume labelled config-2
source=none
find_config() {
  for s in /sys/class/block/*; do
    d=/dev/${s##*/}; [ -b $d ] && [ "$(cat $s/size)" != 0 ] || continue
    case ${d##*/} in loop*|ram*) continue;; esac
    l=$(dd if=$d bs=1 skip=32808 count=8 2>/dev/null | tr -d '\000')        # iso9660
    [ "$l" = config-2 ] && { echo $d iso9660; return; }
    for o in 43 71; do                                                     # FAT16, FAT32
      l=$(dd if=$d bs=1 skip=$o count=8 2>/dev/null | tr -d '\000' | tr A-Z a-z)
      [ "$l" = config-2 ] && { echo $d vfat; return; }
    done
  done
}
cd_=$(find_config)

if [ -z "$cd_" ]; then                              # perhaps on an IDE or SCSI CD-ROM
  modprobe -q ata_piix; modprobe -q sr_mod
  n=0; while [ $n -lt 5 ] && ! ls /sys/class/block/sr* >/dev/null 2>&1 && ls -d /sys/class/scsi_device/* >/dev/null 2>&1; do n=$((n+1)); sleep 0.1; done
  cd_=$(find_config)
fi
if [ -n "$cd_" ]; then
  set -- $cd_
  [ $2 = iso9660 ] && modprobe -q isofs
  [ $2 = vfat ] && { modprobe -q vfat; modprobe -q nls_cp437; modprobe -q nls_iso8859-1; modprobe -q nls_ascii; modprobe -q nls_utf8; }
  if mount -t $2 -o ro $1 /mnt/config; then
    source=config-drive
    cp /mnt/config/openstack/latest/* $D/ 2>/dev/null
    [ -e $D/user_data ] && mv $D/user_data $D/user-data
    umount /mnt/config
  fi
  echo "GUEST CONFIG-DRIVE device=$1 type=$2"
fi

wait $pids
# 3. without an address: static ipv4 from network_data.json
if [ -s $D/network_data.json ]; then
  for s in /sys/class/net/eth*; do
    i=${s##*/}; ip -4 -o addr show dev $i | grep -q inet && continue
    mac=$(cat $s/address)
    jq -r --arg mac "$mac" '(.links[]|select((.ethernet_mac_address//""|ascii_downcase)==$mac)|.id) as $l | .networks[]|select(.link==$l and .type=="ipv4")|[.ip_address,.netmask,((.routes//[])[]|select(.network=="0.0.0.0")|.gateway)]|join(" ")' $D/network_data.json 2>/dev/null |
    while read -r ip mask gw; do
      ip addr add $ip/$mask dev $i; ip link set $i up
      [ -n "$gw" ] && ip route replace default via $gw dev $i
    done
  done
  jq -r '.services[]?|select(.type=="dns")|"nameserver "+.address' $D/network_data.json >>/etc/resolv.conf 2>/dev/null
fi
for s in /sys/class/net/eth*; do
  [ -e $s ] || continue; i=${s##*/}
  echo "GUEST NIC name=$i mac=$(cat $s/address) mtu=$(cat $s/mtu) ip=$(ip -4 -o addr show dev $i | awk '{print $4}' | tr '\n' ' ')"
done

# 4. metadata service
if [ $source = none ]; then
  n=0
  while [ $n -lt 10 ]; do
    ip route | grep -q . || { echo "GUEST METADATA no route"; break; }
    if timeout 8 wget -q -O $D/meta_data.json $url/openstack/latest/meta_data.json 2>/run/wget.err; then
      source=http
      timeout 8 wget -q -O $D/user-data $url/openstack/latest/user_data 2>/dev/null || rm -f $D/user-data
      for f in network_data.json vendor_data.json vendor_data2.json; do timeout 8 wget -q -O $D/$f $url/openstack/latest/$f 2>/dev/null || rm -f $D/$f; done
      break
    fi
    echo "GUEST METADATA try=$n $(tail -n1 /run/wget.err)"
    n=$((n+1)); sleep 1
  done
fi

# 5. apply it
M=$D/meta_data.json; uuid=none
if jq -e . $M >/dev/null 2>&1; then
  eval "$(jq -r '@sh "uuid=\(.uuid//"none") name=\(.hostname//.name//"guest") pass=\(.admin_pass//"")"' $M)"
  h=${name%%.*}; echo "$h" >/etc/hostname; hostname "$h"
  printf '127.0.0.1\tlocalhost\n127.0.1.1\t%s %s\n' "$name" "$h" >/etc/hosts
  jq -r '(.public_keys//{})[]' $M | grep . >/run/keys
  for u in root guest; do
    hd=/root; [ $u = guest ] && hd=/home/guest
    if [ -s /run/keys ]; then mkdir -p $hd/.ssh; cp /run/keys $hd/.ssh/authorized_keys; chmod 600 $hd/.ssh/authorized_keys; chown -R $u:$u $hd 2>/dev/null; fi
    # admin_pass is for the first boot of an instance only
    if [ -n "$pass" ] && [ "$(cat /var/lib/guest/instance 2>/dev/null)" != "$uuid" ]; then
      hash=$(mkpasswd -m sha512 "$pass"); sed -i "s|^$u:[^:]*:|$u:$hash:|" /etc/shadow
    fi
  done
  jq -r '(.devices//[])[]|"GUEST TAG type=\(.type) bus=\(.bus) address=\(.address) mac=\(.mac//"") serial=\(.serial//"") tags=\((.tags//[])|join(","))"' $M
fi
for s in /sys/block/*; do
  case ${s##*/} in loop*|ram*) continue;; esac
  echo "GUEST DISK name=${s##*/} size=$(cat $s/size) serial=$(cat $s/serial 2>/dev/null) pci=$(readlink -f $s | grep -o '0000:[0-9a-f:.]*' | tail -n1)"
done

# 6. ssh
k=/etc/dropbear/dropbear_ed25519_host_key
if [ "$(cat /var/lib/guest/instance 2>/dev/null)" != "$uuid" ]; then rm -f $k; fi   # new instance: new host key
[ -s $k ] || dropbearkey -t ed25519 -f $k >/dev/null 2>&1
echo "GUEST HOSTKEY $(dropbearkey -y -f $k | grep ^ssh-)"
dropbear -r $k -p 22 -P /run/dropbear.pid

# 7. user data, once per instance
new=0; [ "$(cat /var/lib/guest/instance 2>/dev/null)" != "$uuid" ] && new=1
echo "$uuid" >/var/lib/guest/instance
if [ $new = 1 ] && [ -s $D/user-data ]; then
  gzip -t $D/user-data 2>/dev/null && { mv $D/user-data $D/u.gz; gunzip -c $D/u.gz >$D/user-data; }
  if [ "$(head -c 2 $D/user-data)" = '#!' ]; then
    chmod +x $D/user-data; $D/user-data >/var/log/user-data.log 2>&1; rc=$?
    sed 's/^/GUEST USER-DATA /' /var/log/user-data.log | head -n 40
    echo "GUEST USER-DATA rc=$rc"
  fi
fi
n=$(cat /var/lib/guest/boots 2>/dev/null); n=$((${n:-0}+1)); echo $n >/var/lib/guest/boots; sync
echo "GUEST READY uuid=$uuid hostname=$(hostname) source=$source keys=$(grep -c . /root/.ssh/authorized_keys 2>/dev/null || echo 0) root=$(df -m / | awk 'END{print $2}')MiB boots=$n uptime=$(cut -d' ' -f1 /proc/uptime)"
