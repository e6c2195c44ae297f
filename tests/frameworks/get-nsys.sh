#!/usr/bin/env bash
# Debian's nsys (non-free) in .cache/nsys, without installing anything: its dependencies would bring a driver of NVIDIA
# along, which a machine without a GPU must not have. Prints the program's path. Needs apt, no privilege; about 15 s.
set -euo pipefail
cd "$(dirname "$0")/../.."
home="$PWD/.cache/nsys"
program="$home/root/usr/bin/nsys"
if [ ! -e "$home/ready" ]; then
  mkdir -p "$home/apt/lists/partial" "$home/apt/cache/archives/partial" "$home/apt/sources" "$home/root"
  # The machine's own sources, with one more component.
  for source in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
    [ -f "$source" ] || continue
    case "$source" in
      *.sources) sed -E 's/^(Components:.*)$/\1 non-free/' "$source" > "$home/apt/sources/$(basename "$source")" ;;
      *.list) sed -E 's/^(deb .*\bmain\b.*)$/\1 non-free/' "$source" > "$home/apt/sources/$(basename "$source")" ;;
    esac
  done
  options=(-qq -o "Dir::State::lists=$home/apt/lists" -o "Dir::Cache=$home/apt/cache" -o APT::Sandbox::User="$(id -un)"
    -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$home/apt/sources")
  apt-get "${options[@]}" update >&2
  # nsys, the programs that record, and the library that its importer needs.
  (cd "$home" && apt-get "${options[@]}" download nsight-systems nsight-systems-target libssh-4 >&2)
  for package in "$home"/*.deb; do
    # Not its windows, which are most of it.
    dpkg --fsys-tarfile "$package" | tar -x -C "$home/root" --exclude='*WebEngine*' --exclude='*/translations' \
      --exclude='*/resources' --exclude='*.bin' --exclude='./usr/share'
  done
  rm -rf "$home"/*.deb "$home/apt"
  touch "$home/ready"
fi
"$program" --version >&2
echo "$program"
