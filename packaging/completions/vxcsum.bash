# bash completion for vxcsum(8). The names of devices come from sysfs when the user completes.

_vxcsum_devices() {
    local file
    for file in /sys/class/net/*/uevent; do
        grep -Eqsx 'DEVTYPE=(vxlan|geneve)' "$file" || continue
        file=${file%/uevent}
        printf '%s\n' "${file##*/}"
    done
}

# The candidates that begin with the current word, one in each line, quoted for the shell.
_vxcsum_reply() {
    local candidate
    COMPREPLY=()
    while IFS= read -r candidate; do
        [[ $candidate == "$1"* ]] && COMPREPLY+=("$(printf '%q' "$candidate")")
    done
}

_vxcsum() {
    # COMP_WORDS cannot be used directly: readline splits words at a colon or an equals sign.
    local cur=$2 prev=$3 word command='' sub=''
    local global='--json --log --quiet --color --log-target --policy --backend --root --help --version'
    local -i n=1
    while ((n < COMP_CWORD)); do
        word=${COMP_WORDS[n]}
        case $word in
            --policy | --log-target | --color | --backend | --root | --device | --watch | --kernel | --uname-version | --version-signature | --os-release | --nodes | --format | --output | --metrics) n+=1 ;;
            -*) ;;
            *) if [[ -z $command ]]; then command=$word; elif [[ -z $sub ]]; then sub=$word; fi ;;
        esac
        n+=1
    done
    COMPREPLY=()
    case $prev in
        --device) _vxcsum_reply "$cur" < <(_vxcsum_devices); return ;;
        --color) mapfile -t COMPREPLY < <(compgen -W 'auto always never' -- "$cur"); return ;;
        --log-target) mapfile -t COMPREPLY < <(compgen -W 'auto stderr' -- "$cur"); return ;;
        --backend) mapfile -t COMPREPLY < <(compgen -W 'auto netlink ioctl' -- "$cur"); return ;;
        --policy | --os-release | --nodes | --output | --metrics)
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        --format) mapfile -t COMPREPLY < <(compgen -W 'prometheus npd' -- "$cur"); return ;;
        --root)
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -d -- "$cur")
            return
            ;;
        --kernel) mapfile -t COMPREPLY < <(compgen -W "$(uname -r)" -- "$cur"); return ;;
        --uname-version | --version-signature | --watch) return ;;
    esac
    local words
    if [[ $cur != -* && $command =~ ^(apply|revert|status|doctor)$ ]]; then
        _vxcsum_reply "$cur" < <(_vxcsum_devices)
        return
    fi
    case $command in
        '') words="apply revert watch status explain probe doctor export policy help --dry-run --exit-code $global" ;;
        apply) words="--dry-run --device --if-exists --exit-code $global" ;;
        revert) words="--dry-run --device --exit-code $global" ;;
        watch) words="--exclusive --metrics --revert-on-exit $global" ;;
        probe) words="$global" ;;
        export)
            if [[ -z $sub ]]; then
                words="link udev networkmanager talos butane machineconfig ansible felix nftables-notrack"
            elif [[ $cur != -* ]]; then
                _vxcsum_reply "$cur" < <(_vxcsum_devices)
                return
            fi
            words="${words-} --device $global"
            ;;
        doctor) words="--device --watch $global" ;;
        status) words="--device --exit-code --format --output $global" ;;
        explain)
            if [[ $cur != -* && -z $sub ]]; then
                _vxcsum_reply "$cur" < <(_vxcsum_devices)
                return
            fi
            words="--device --kernel --uname-version --version-signature --os-release --nodes $global"
            ;;
        policy)
            case $sub in
                '') words="check show $global" ;;
                check)
                    if [[ $cur != -* ]]; then
                        compopt -o filenames
                        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
                        return
                    fi
                    words="$global"
                    ;;
                *) words="$global" ;;
            esac
            ;;
        help) words='apply revert watch status explain probe doctor export policy' ;;
        *) return ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _vxcsum vxcsum
