# Completion of somactl for fish. In ~/.config/fish/config.fish: somactl completion fish | source
# somactl itself says what could stand at the cursor: first `words` or `files`, then one a line.
function __somactl_complete
    set -l before (commandline -opc)
    set -l answer (command $before[1] --complete fish $before[2..] (commandline -ct) 2>/dev/null)
    switch "$answer[1]"
        case files
            set -l typed (commandline -ct)
            set -l key (string match -r '^.*=' -- $typed | string unescape)
            for path in (complete -C "'' "(string replace -r '^.*=' '' -- $typed | string collect))
                printf '%s%s\n' "$key" $path
            end
        case words open
            printf '%s\n' $answer[2..]
    end
end
complete -c somactl -f -a '(__somactl_complete)'
