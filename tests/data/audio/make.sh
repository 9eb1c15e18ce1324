#!/bin/sh
# Makes the clips of this directory from 0.6 s of a 16 kHz mono recording: sh make.sh RECORDING.wav (needs ffmpeg).
set -eu
ff() { ffmpeg -nostdin -y -loglevel error -bitexact "$@"; }
ff -ss 0.5 -t 0.6 -i "$1" -map_metadata -1 -flags +bitexact source.wav
ff -i source.wav -c:a libmp3lame -b:a 32k clip.mp3
ff -i source.wav -c:a flac -compression_level 12 clip.flac
ff -i source.wav -c:a libvorbis -q 4 clip.ogg
ff -i source.wav -ar 8000 -c:a libvorbis -q 4 clip_8k.ogg
ff -i source.wav -c:a libopus -b:a 16k -application voip silk.opus
ff -i source.wav -ac 2 -ar 48000 -c:a libopus -b:a 64k -application audio celt_stereo.opus
ff -i source.wav -c:a libopus -b:a 24k clip.webm
ff -i source.wav -c:a libvorbis -q 4 clip.mkv
ff -i source.wav -c:a aac -b:a 48k -movflags +faststart clip.m4a
ff -i source.wav -c:a aac -b:a 48k clip.aac
ff -i source.wav -f lavfi -i testsrc=d=0.6:s=32x32:r=5 -map 1:v -map 0:a -ac 2 -ar 44100 -c:a aac -b:a 64k -c:v mpeg4 -q:v 20 video.mp4
ff -f lavfi -i testsrc=d=0.6:s=32x32:r=5 -c:v mpeg4 -q:v 20 silent_film.mp4
ff -f lavfi -i testsrc=d=0.6:s=32x32:r=5 -c:v libvpx -b:v 20k silent_film.webm
ff -i source.wav -t 0.2 -c:a pcm_s16be clip.aiff
ff -i source.wav -t 0.2 -c:a pcm_s16le clip.caf
ff -i source.wav -c:a adpcm_ima_wav adpcm.wav
ff -i source.wav -ar 32000 -c:a ac3 -b:a 64k clip.ac3
