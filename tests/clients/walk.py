"""The walk of a new user, command by command: (who, command, what its output must hold).

``>name`` at the end keeps a printed value: the field ``id`` of ``-f json`` unless ``>name=field`` says another.
``!`` before the command: it must fail, with the words in its error. Files: {key} a public key, {disk} a raw disk,
{data} user data.
"""

Step = tuple[str, str, str]

IDENTITY: tuple[Step, ...] = (
    ("demo", "token issue", "expires"),
    ("demo", "catalog list", "compute"),
    ("demo", "catalog show network", "neutron"),
    ("admin", "project list", "demo"),
    ("admin", "user list", "admin"),
    ("admin", "role list", "member"),
    ("demo", "application credential create walk", "walk"),
    ("demo", "application credential list", "walk"),
    ("demo", "application credential delete walk", ""),
    ("demo", "!project list --os-password wrong", "401"),
)

IMAGES: tuple[Step, ...] = (
    (
        "demo",
        "image create --disk-format raw --container-format bare --file {disk} mine -f json >image",
        "mine",
    ),
    ("demo", "image list", "tiny-linux"),
    ("demo", "image show mine", "active"),
    ("demo", "image set --property os_distro=walk --name renamed mine", ""),
    ("demo", "image show renamed", "os_distro='walk'"),
    ("demo", "image save --file {saved} renamed", ""),
    ("demo", "image delete renamed", ""),
    ("demo", "!image show renamed", "No Image found"),
)

FLAVORS_AND_KEYS: tuple[Step, ...] = (
    ("demo", "flavor list", "m1.tiny"),
    ("demo", "flavor show m1.small", "2048"),
    (
        "admin",
        "flavor create --vcpus 1 --ram 64 --disk 1 --property walk:a=b walk -f json >flavor",
        "walk",
    ),
    ("admin", "flavor show walk", "walk:a='b'"),
    ("admin", "flavor set --property walk:c=d walk", ""),
    ("admin", "flavor delete walk", ""),
    ("demo", "keypair create --public-key {key} walk", "walk"),
    ("demo", "keypair list", "walk"),
    ("demo", "keypair show walk", "ssh"),
)

NETWORKS: tuple[Step, ...] = (
    ("demo", "network create walk-net -f json >net", "walk-net"),
    ("demo", "network list", "walk-net"),
    ("demo", "network set --description d walk-net", ""),
    ("demo", "network show walk-net", "ACTIVE"),
    (
        "demo",
        "subnet create --network walk-net --subnet-range 10.99.0.0/24 walk-sub -f json >subnet",
        "10.99.0.1",
    ),
    ("demo", "subnet list", "10.99.0.0/24"),
    ("demo", "subnet set --dns-nameserver 192.0.2.53 walk-sub", ""),
    ("demo", "subnet show walk-sub", "192.0.2.53"),
    ("demo", "router create walk-router -f json >router", "walk-router"),
    ("demo", "router add subnet walk-router walk-sub", ""),
    ("demo", "router set --external-gateway public walk-router", ""),
    ("demo", "router show walk-router", "external_fixed_ips"),
    ("demo", "router list", "walk-router"),
    ("demo", "port create --network walk-net walk-port -f json >port", "10.99.0."),
    ("demo", "port list --network walk-net", "walk-port"),
    ("demo", "port set --name walk-port2 walk-port", ""),
    ("demo", "port show walk-port2", "fa:16:3e"),
    ("demo", "security group create walk-sg -f json >group", "walk-sg"),
    ("demo", "security group rule create --protocol tcp --dst-port 22 walk-sg -f json >rule", "22"),
    ("demo", "security group rule list walk-sg", "22:22"),
    ("demo", "security group rule show {rule}", "tcp"),
    ("demo", "security group set --description d walk-sg", ""),
    ("demo", "security group show walk-sg", "rules"),
    ("demo", "security group list", "walk-sg"),
    ("demo", "floating ip create public -f json >floating=floating_ip_address", "172.24."),
    ("demo", "floating ip list", "{floating}"),
    ("demo", "floating ip show {floating}", "DOWN"),
    ("admin", "network agent list", ""),
)

AGGREGATES: tuple[Step, ...] = (
    ("admin", "aggregate create --zone walk-zone walk-aggregate -f json >aggregate", "walk-zone"),
    ("admin", "aggregate list", "walk-aggregate"),
    ("admin", "aggregate add host walk-aggregate cell1-host2", "cell1-host2"),
    ("admin", "aggregate set --property ssd=true walk-aggregate", ""),
    ("admin", "aggregate show walk-aggregate", "ssd='true'"),
    (
        "demo",
        "server create --wait --flavor m1.nano --image tiny-linux --network private"
        " --availability-zone walk-zone zoned -f json >zoned",
        "walk-zone",
    ),
    ("demo", "server delete --wait zoned", ""),
    ("admin", "aggregate remove host walk-aggregate cell1-host2", ""),
    ("admin", "aggregate delete walk-aggregate", ""),
)

SERVERS: tuple[Step, ...] = (
    (
        "demo",
        "server create --wait --flavor m1.tiny --image tiny-linux --key-name walk --network walk-net --user-data {data}"
        " --config-drive True --property role=web --security-group walk-sg one -f json >one",
        "ACTIVE",
    ),
    (
        "demo",
        "server create --wait --flavor m1.tiny --image tiny-linux --nic port-id={port} two -f json >two",
        "10.99.0.",
    ),
    (
        "demo",
        "--os-compute-api-version 2.37 server create --wait --flavor m1.tiny --image tiny-linux"
        " --nic none three -f json >three",
        "ACTIVE",
    ),
    (
        "demo",
        "server create --flavor m1.nano --image tiny-linux --network private --min 2 --max 2 --wait many",
        "many-1",
    ),
    ("demo", "server list", "one"),
    ("demo", "server list --long", "tiny-linux"),
    ("admin", "server list --all-projects", "one"),
    ("demo", "server list --status ACTIVE --name one", "one"),
    ("demo", "server list --limit 1 --marker {one}", ""),
    ("demo", "server show one", "role='web'"),
    ("demo", "server set --property a=b --name uno one", ""),
    ("demo", "server unset --property a uno", ""),
    ("demo", "server add floating ip uno {floating}", ""),
    ("demo", "server show uno", "{floating}"),
    ("demo", "server remove floating ip uno {floating}", ""),
    ("demo", "server add security group uno default", ""),
    ("demo", "server remove security group uno default", ""),
    ("demo", "server event list uno", "create"),
    ("demo", "server event list uno -f json >event=Request ID", "create"),
    ("demo", "server event show {one} {event}", "create"),
    ("demo", "--os-compute-api-version 2.49 server add network --tag late uno private", ""),
    ("demo", "server show uno", "private="),
    ("demo", "server remove network uno private", ""),
    ("demo", "port create --network walk-net walk-late -f json >late", "10.99.0."),
    ("demo", "server add port uno {late}", ""),
    ("demo", "server remove port uno {late}", ""),
    ("demo", "port delete walk-late", ""),
    ("demo", "server add fixed ip uno walk-net", ""),
    (
        "demo",
        "--os-compute-api-version 2.44 server add fixed ip --fixed-ip-address 10.99.0.77 uno walk-net",
        "",
    ),
    ("demo", "console log show uno", ""),
    ("demo", "!server show missing", "No Server found"),
)

LIFE: tuple[Step, ...] = (
    ("demo", "server stop uno", ""),
    ("demo", "~SHUTOFF uno", ""),
    ("demo", "server start uno", ""),
    ("demo", "~ACTIVE uno", ""),
    ("demo", "server reboot --soft --wait uno", ""),
    ("demo", "server reboot --hard --wait uno", ""),
    ("demo", "server pause uno", ""),
    ("demo", "~PAUSED uno", ""),
    ("demo", "server unpause uno", ""),
    ("demo", "~ACTIVE uno", ""),
    ("demo", "server suspend uno", ""),
    ("demo", "~SUSPENDED uno", ""),
    ("demo", "server resume uno", ""),
    ("demo", "~ACTIVE uno", ""),
    ("demo", "server lock uno", ""),
    ("demo", "!server stop uno", ""),
    ("admin", "server unlock {one}", ""),
    ("demo", "server delete --wait two three", ""),
)

COPIES: tuple[Step, ...] = (
    ("demo", "server image create --name walk-gold --wait uno", "walk-gold"),
    ("demo", "image show walk-gold", "instance_uuid"),
    (
        "demo",
        "server create --wait --flavor m1.tiny --image walk-gold --network private walk-copy",
        "ACTIVE",
    ),
    ("demo", "server backup create --name walk-backup --type daily --rotate 1 --wait uno", ""),
    ("demo", "image list --property backup_type=daily", "walk-backup"),
    ("demo", "server rebuild --image tiny-linux --name walk-anew --wait walk-copy", "walk-anew"),
    ("demo", "server set --name walk-copy walk-anew", ""),
    ("demo", "server rescue walk-copy", ""),
    ("demo", "~RESCUE walk-copy", ""),
    ("demo", "server unrescue walk-copy", ""),
    ("demo", "~ACTIVE walk-copy", ""),
    ("demo", "server delete --wait walk-copy", ""),
    ("demo", "image delete walk-gold walk-backup", ""),
)

ADMIN: tuple[Step, ...] = (
    ("demo", "availability zone list", "nova"),
    ("admin", "hypervisor list", "cell1-host1"),
    ("admin", "hypervisor show cell1-host1", "cell1-host1"),
    ("admin", "compute service list", "nova-compute"),
    ("admin", "compute service set --disable --disable-reason walk cell1-host3 nova-compute", ""),
    ("admin", "compute service list --long", "walk"),
    ("admin", "compute service set --enable cell1-host3 nova-compute", ""),
    ("admin", "quota show demo", "cores"),
    ("admin", "quota set --instances 9 demo", ""),
    ("demo", "quota show", "instances"),
    ("demo", "limits show --absolute", "total_instances_used"),
    ("admin", "usage list", "demo"),
    ("demo", "usage show", "CPU"),
    (
        "demo",
        "--os-compute-api-version 2.64 server group create --policy anti-affinity walk-group -f json >sgroup",
        "anti-affinity",
    ),
    ("demo", "server group list", "walk-group"),
    ("demo", "server group show walk-group", "anti-affinity"),
    (
        "demo",
        "server create --wait --flavor m1.nano --image tiny-linux --network private"
        " --hint group={sgroup} in-group -f json >grouped",
        "ACTIVE",
    ),
    ("demo", "server group delete walk-group", ""),
    ("demo", "server delete --wait in-group", ""),
)

END: tuple[Step, ...] = (
    ("demo", "server delete --wait uno many-1 many-2", ""),
    ("demo", "floating ip delete {floating}", ""),
    ("demo", "router remove subnet walk-router walk-sub", ""),
    ("demo", "router unset --external-gateway walk-router", ""),
    ("demo", "router delete walk-router", ""),
    ("demo", "port delete walk-port2", ""),
    ("demo", "network delete walk-net", ""),
    ("demo", "security group rule delete {rule}", ""),
    ("demo", "security group delete walk-sg", ""),
    ("demo", "keypair delete walk", ""),
    ("demo", "server list -f value", ""),
)

SECTIONS = {
    "identity": IDENTITY,
    "images": IMAGES,
    "flavors and keys": FLAVORS_AND_KEYS,
    "networks": NETWORKS,
    "aggregates": AGGREGATES,
    "servers": SERVERS,
    "life": LIFE,
    "copies": COPIES,
    "admin": ADMIN,
    "end": END,
}
