# fish completion for vxcsum(8). The names of devices come from sysfs when the user completes.

function __vxcsum_devices
    for file in /sys/class/net/*/uevent
        if grep -Eqsx 'DEVTYPE=(vxlan|geneve)' $file
            string split / $file | sed -n 5p
        end
    end
end

complete -c vxcsum -f

complete -c vxcsum -n __fish_use_subcommand -a apply -d 'Turn the offload off on the devices that need it'
complete -c vxcsum -n __fish_use_subcommand -a revert -d 'Turn the offload back on where vxcsum turned it off'
complete -c vxcsum -n __fish_use_subcommand -a watch -d 'Run continuously and handle each VXLAN and Geneve device as it appears or changes'
complete -c vxcsum -n __fish_use_subcommand -a status -d 'Show every VXLAN and Geneve device, its state and what apply would do'
complete -c vxcsum -n __fish_use_subcommand -a explain -d 'Explain a decision and how to change it'
complete -c vxcsum -n __fish_use_subcommand -a probe -d 'Measure whether this kernel corrupts packets'
complete -c vxcsum -n __fish_use_subcommand -a doctor -d 'Diagnose this node, and say what to do'
complete -c vxcsum -n __fish_use_subcommand -a export -d 'Print a configuration for another program'
complete -c vxcsum -n __fish_use_subcommand -a policy -d 'Check or show the policy'
complete -c vxcsum -n __fish_use_subcommand -a help -d 'Show help'
complete -c vxcsum -n __fish_use_subcommand -s n -l dry-run -d 'The same as apply --dry-run'
complete -c vxcsum -n __fish_use_subcommand -l exit-code -d 'With --dry-run: exit 2 if something would be changed'
complete -c vxcsum -n __fish_use_subcommand -s V -l version -d 'Show the version'

complete -c vxcsum -l json -d 'Print JSON instead of text'
complete -c vxcsum -s q -l quiet -d 'Print no report'
complete -c vxcsum -l color -x -a 'auto always never' -d 'When to colour the text'
complete -c vxcsum -l log-target -x -a 'auto stderr' -d 'Where log records go'
complete -c vxcsum -l policy -r -F -d 'Read this policy and nothing else'
complete -c vxcsum -l backend -x -a 'auto netlink ioctl' -d 'Which interface of the kernel to use'
complete -c vxcsum -l log -d 'Log changes and failures, and print no report'
complete -c vxcsum -l root -x -a '(__fish_complete_directories)' -d 'Read files below this directory'
complete -c vxcsum -s h -l help -d 'Show help'

complete -c vxcsum -n '__fish_seen_subcommand_from apply revert' -s n -l dry-run -d 'Show what would be done and do nothing'
complete -c vxcsum -n '__fish_seen_subcommand_from apply revert status explain doctor export' -l device -x -a '(__vxcsum_devices)' -d 'Only this device'
complete -c vxcsum -n '__fish_seen_subcommand_from apply' -l if-exists -d 'A device that is not there is no error'
complete -c vxcsum -n '__fish_seen_subcommand_from apply revert status' -l exit-code -d 'Exit 2 if something would be changed'

complete -c vxcsum -n '__fish_seen_subcommand_from status' -l format -x -a 'prometheus npd' -d 'Print for a monitoring program'
complete -c vxcsum -n '__fish_seen_subcommand_from status' -l output -r -F -d 'Replace this file with it'
complete -c vxcsum -n '__fish_seen_subcommand_from watch' -l exclusive -d 'Take charge of this machine'
complete -c vxcsum -n '__fish_seen_subcommand_from watch' -l metrics -r -F -d 'Keep metrics for Prometheus in this file'
complete -c vxcsum -n '__fish_seen_subcommand_from watch' -l revert-on-exit -d 'Give back on SIGTERM'

complete -c vxcsum -n '__fish_seen_subcommand_from doctor' -l watch -x -d 'Also say how the counters change'

complete -c vxcsum -n '__fish_seen_subcommand_from explain apply revert status doctor' -a '(__vxcsum_devices)' -d 'VXLAN or Geneve device'
complete -c vxcsum -n '__fish_seen_subcommand_from explain' -l kernel -x -a '(uname -r)' -d 'Judge this release'
complete -c vxcsum -n '__fish_seen_subcommand_from explain' -l uname-version -x -d 'That machine\'s uname -v'
complete -c vxcsum -n '__fish_seen_subcommand_from explain' -l version-signature -x -d 'That machine\'s /proc/version_signature'
complete -c vxcsum -n '__fish_seen_subcommand_from explain' -l nodes -r -F -d 'Judge the kernels of many machines'
complete -c vxcsum -n '__fish_seen_subcommand_from explain' -l os-release -r -F -d 'A copy of that machine\'s os-release'

complete -c vxcsum -n '__fish_seen_subcommand_from export; and not __fish_seen_subcommand_from link udev networkmanager talos butane machineconfig ansible felix nftables-notrack' -a 'link udev networkmanager talos butane machineconfig ansible felix nftables-notrack'
complete -c vxcsum -n '__fish_seen_subcommand_from export; and __fish_seen_subcommand_from link udev networkmanager talos butane machineconfig ansible felix nftables-notrack' -a '(__vxcsum_devices)' -d 'VXLAN device'

complete -c vxcsum -n '__fish_seen_subcommand_from policy; and not __fish_seen_subcommand_from check show' -a check -d 'Say whether a policy is valid'
complete -c vxcsum -n '__fish_seen_subcommand_from policy; and not __fish_seen_subcommand_from check show' -a show -d 'Print the policy in use'
complete -c vxcsum -n '__fish_seen_subcommand_from check' -F
complete -c vxcsum -n '__fish_seen_subcommand_from help' -a 'apply revert watch status explain probe doctor export policy'
