package icebergtest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAProgramSeesItsArgumentsAndTheLibrary(t *testing.T) {
	require.Equal(t, "a b c x > 1\n", string(Run(t, 5*time.Minute, `
import org.apache.iceberg.expressions.Expressions;
public class Scan {
  public static void main(String[] args) {
    System.out.println(String.join(" ", args) + " " + Expressions.greaterThan("x", 1).toString().replaceAll(".*?(x).*?(>) (1).*", "$1 $2 $3"));
  }
}`, "a", "b c")))
}
