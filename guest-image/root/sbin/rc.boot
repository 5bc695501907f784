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
find_config() { # print the device of the volume config-2 (FAT labels may be upper case)
  findfs LABEL=config-2 2>/dev/null || findfs LABEL=CONFIG-2 2>/dev/null
}
cd_=$(find_config)
if [ -z "$cd_" ] && [ -d /run/cdrom ]; then         # perhaps on an IDE or SCSI CD-ROM
  n=0; while [ ! -e /run/cdrom/done ] && [ $n -lt 50 ]; do n=$((n+1)); sleep 0.1; done
  cd_=$(find_config)
fi
if [ -n "$cd_" ]; then
  t=vfat; [ "$(dd if=$cd_ bs=1 skip=32769 count=5 2>/dev/null)" = CD001 ] && t=iso9660
  [ $t = iso9660 ] && modprobe -q isofs
  [ $t = vfat ] && { modprobe -q vfat; modprobe -q nls_cp437; modprobe -q nls_iso8859-1; modprobe -q nls_ascii; modprobe -q nls_utf8; }
  if mount -t $t -o ro $cd_ /mnt/config; then
    source=config-drive
    cp /mnt/config/openstack/latest/* $D/ 2>/dev/null
    [ -e $D/user_data ] && mv $D/user_data $D/user-data
    umount /mnt/config
  fi
  echo "GUEST CONFIG-DRIVE device=$cd_ type=$t"
fi

wait $pids
# 3. without an address: static ipv4 from network_data.json
if [ -s $D/network_data.json ]; then
  for s in /sys/class/net/eth*; do
    i=${s##*/}; ip -4 -o addr show dev $i | grep -q inet && continue
    mac=$(cat $s/address)
    jq -r --arg mac "$mac" '(.links[]|select((.ethernet_mac_address//""|ascii_downcase)==$mac)|.id) as $l | .networks[]|select(.link==$l and .type=="ipv4")|[.ip_address,.netmask,((.routes//[])[]|select(.network=="0.0.0.0")|.gateway)]|join(" ")' $D/network_data.json 2>/dev/null |
    while read -r ip mask gw; do
      touch /run/static
      ip addr add $ip/$mask dev $i; ip link set $i up
      [ -n "$gw" ] && ip route replace default via $gw dev $i
    done
  done
  [ ! -e /run/static ] || jq -r '.services[]?|select(.type=="dns")|"nameserver "+.address' $D/network_data.json >>/etc/resolv.conf 2>/dev/null
fi
for s in /sys/class/net/eth*; do
  [ -e $s ] || continue; i=${s##*/}
  echo "GUEST NIC name=$i mac=$(cat $s/address) mtu=$(cat $s/mtu) ip=$(ip -4 -o addr show dev $i | awk '{print $4}' | tr '\n' ' ')"
done

sed 's/^/GUEST RESOLV /' /etc/resolv.conf 2>/dev/null
ip -4 route | sed 's/^/GUEST ROUTE /'

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
json $D/meta_data.json >/run/meta 2>/dev/null || : >/run/meta
get() { awk -F'\t' -v k="$1" '$1 == k { print $2; exit }' /run/meta; }
uuid=none
if [ -s /run/meta ]; then
  uuid=$(get uuid); name=$(get hostname); pass=$(get admin_pass)
  [ -n "$name" ] || name=$(get name); [ -n "$name" ] || name=guest; [ -n "$uuid" ] || uuid=none
  h=${name%%.*}; echo "$h" >/etc/hostname; hostname "$h"
  printf '127.0.0.1\tlocalhost\n127.0.1.1\t%s %s\n' "$name" "$h" >/etc/hosts
  sed -n 's/^public_keys\.[^\t]*\t//p' /run/meta | sed 's/\\n/\n/g' | grep . >/run/keys
  for u in root guest; do
    hd=/root; [ $u = guest ] && hd=/home/guest
    if [ -s /run/keys ]; then mkdir -p $hd/.ssh; cp /run/keys $hd/.ssh/authorized_keys; chmod 600 $hd/.ssh/authorized_keys; chown -R $u:$u $hd 2>/dev/null; fi
    # admin_pass is for the first boot of an instance only
    if [ -n "$pass" ] && [ "$(cat /var/lib/guest/instance 2>/dev/null)" != "$uuid" ]; then
      hash=$(mkpasswd -m sha512 "$pass"); sed -i "s|^$u:[^:]*:|$u:$hash:|" /etc/shadow
    fi
  done
  awk -F'\t' '
    function show() { if (last != "") print "GUEST TAG type=" v["type"] " bus=" v["bus"] " address=" v["address"] " mac=" v["mac"] " serial=" v["serial"] " tags=" tags; split("", v); tags = "" }
    { split($1, k, ".") } k[1] != "devices" { next }
    (k[2] "") != (last "") { show(); last = k[2] "" }
    k[3] == "tags" { tags = tags (tags == "" ? "" : ",") $2; next } { v[k[3]] = $2 }
    END { show() }' /run/meta
fi
for s in /sys/block/*; do
  case ${s##*/} in loop*|ram*) continue;; esac
  echo "GUEST DISK name=${s##*/} size=$(cat $s/size) serial=$(cat $s/serial 2>/dev/null) pci=$(readlink -f $s | grep -o '0000:[0-9a-f:.]*' | tail -n1)"
done

# 6. ssh
k=/etc/dropbear/dropbear_ed25519_host_key
if [ "$(cat /var/lib/guest/instance 2>/dev/null)" != "$uuid" ]; then rm -f $k; fi   # new instance: new host key
if [ ! -s $k ]; then
  n=0; while [ ! -e /run/hostkey.done ] && [ $n -lt 300 ]; do n=$((n+1)); sleep 0.1; done
  mv /run/hostkey $k
fi
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
