// Command generate writes observability/rules, the dashboards and docs/metrics.md anew. `make generate` runs it.
package main

import (
	"log"
	"os"
	"path/filepath"

	"github.com/pulsegrid/pulsegrid/observability"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("generate wants the root of the checkout")
	}
	root := os.Args[1]
	files, err := observability.Generate(os.DirFS(root))
	if err != nil {
		log.Fatal(err)
	}
	for _, pattern := range []string{"observability/rules/*.yaml", "dashboards/*.json"} { // one that nothing makes any more goes
		old, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			log.Fatal(err)
		}
		for _, file := range old {
			if err := os.Remove(file); err != nil {
				log.Fatal(err)
			}
		}
	}
	for file, content := range files {
		if err := os.WriteFile(filepath.Join(root, file), content, 0o644); err != nil {
			log.Fatal(err)
		}
	}
}
