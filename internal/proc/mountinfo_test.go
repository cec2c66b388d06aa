package proc_test

import (
	"reflect"
	"testing"

	"porthole.dev/porthole/internal/proc"
)

func TestParseMounts(t *testing.T) {
	// The first is the example of proc_pid_mountinfo(5).
	const list = `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
22 1 0:55 / / rw - overlay overlay rw,lowerdir=/a:/b
40 22 0:21 /pods/x/volumes/kubernetes.io~empty-dir/run /with\040space\011and\134more rw shared:1 master:2 propagate_from:3 - tmpfs tmpfs rw
`
	got, err := proc.ParseMounts([]byte(list))
	want := []proc.Mount{
		{36, "98:0", "/mnt1", "/mnt2", "ext3"}, {22, "0:55", "/", "/", "overlay"},
		{40, "0:21", "/pods/x/volumes/kubernetes.io~empty-dir/run", "/with space\tand\\more", "tmpfs"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, line := range []string{"\n", "x 35 98:0 / / rw - ext3 a b\n", "36 35 98:0 / / rw ext3\n", "36 35 98:0 / - ext3 a rw\n"} {
		if got, err := proc.ParseMounts([]byte(line)); err == nil {
			t.Errorf("ParseMounts(%q) = %+v, want an error", line, got)
		}
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add([]byte("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"))
	f.Add([]byte(`40 22 0:21 / /a\040b\ rw - tmpfs tmpfs rw`))
	f.Fuzz(func(t *testing.T, list []byte) {
		all, err := proc.ParseMounts(list)
		if err != nil && all != nil {
			t.Errorf("ParseMounts(%q) = %+v, %v", list, all, err)
		}
	})
}
