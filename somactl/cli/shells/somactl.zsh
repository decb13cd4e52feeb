#compdef somactl
# Completion of somactl for zsh. In ~/.zshrc: source <(somactl completion zsh)
# somactl itself says what could stand at the cursor: first `words` or `files`, then one a line.
_somactl() {
    local -a answer
    answer=("${(@f)$("${(@Q)words[1]}" --complete zsh "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    case $answer[1] in
        files) compset -P '*='; _files ;;
        open) compadd -S '' -- "${(@)answer[2,-1]}" ;;
        words) compadd -- "${(@)answer[2,-1]}" ;;
    esac
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
if [[ ${funcstack[1]} == _somactl ]]; then _somactl "$@"; else compdef _somactl somactl; fi
