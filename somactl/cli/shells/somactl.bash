# Completion of somactl for bash. In ~/.bashrc: source <(somactl completion bash)
# somactl itself says what could stand at the cursor: first `words` or `files`, then one a line, as bash is to insert it.
_somactl() {
    local mode word
    COMPREPLY=()
    {
        IFS= read -r mode
        while IFS= read -r word; do COMPREPLY+=("$word"); done
    } < <("$1" --complete bash "$COMP_WORDBREAKS" "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    # bash 3 has no compopt, and falls back to files where there is nothing else.
    case $mode in
        files) compopt -o default -o filenames 2>/dev/null ;;
        open) compopt +o default -o nospace 2>/dev/null ;;
        *) compopt +o default 2>/dev/null ;;
    esac
}
complete -o default -F _somactl somactl
