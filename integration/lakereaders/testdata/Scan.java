import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.File;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.iceberg.BaseTable;
import org.apache.iceberg.StaticTableOperations;
import org.apache.iceberg.Table;
import org.apache.iceberg.data.IcebergGenerics;
import org.apache.iceberg.data.InternalRecordWrapper;
import org.apache.iceberg.data.Record;
import org.apache.iceberg.expressions.Evaluator;
import org.apache.iceberg.expressions.Expression;
import org.apache.iceberg.expressions.Expressions;
import org.apache.iceberg.io.CloseableIterable;
import org.apache.iceberg.io.FileIO;
import org.apache.iceberg.io.InputFile;
import org.apache.iceberg.io.OutputFile;
import org.apache.iceberg.Files;

/** Answers every predicate of the spec with Iceberg's generic reader, which skips files by manifests, row groups by statistics and dictionaries. */
public class Scan {
  static final FileIO LOCAL = new FileIO() {
    public InputFile newInputFile(String path) { return Files.localInput(new File(path.replaceFirst("^file://", ""))); }
    public OutputFile newOutputFile(String path) { throw new UnsupportedOperationException(); }
    public void deleteFile(String path) { throw new UnsupportedOperationException(); }
  };

  static Object decode(String kind, JsonNode v) {
    switch (kind) {
      case "text": return v.asText();
      case "bool": return v.asBoolean();
      case "int": return v.asInt();
      case "double": return Double.longBitsToDouble(Long.parseUnsignedLong(v.asText(), 16));
      case "binary": case "fixed": return ByteBuffer.wrap(HexFormat.of().parseHex(v.asText()));
      default: return v.asLong(); // long; time in microseconds
    }
  }

  static Expression expression(JsonNode p) {
    String c = p.get("column").asText();
    List<Object> values = new ArrayList<>();
    p.get("values").forEach(v -> values.add(decode(p.get("kind").asText(), v)));
    switch (p.get("op").asText()) {
      case "==": return Expressions.equal(c, values.get(0));
      case "!=": return Expressions.notEqual(c, values.get(0));
      case "<": return Expressions.lessThan(c, values.get(0));
      case "<=": return Expressions.lessThanOrEqual(c, values.get(0));
      case ">": return Expressions.greaterThan(c, values.get(0));
      case ">=": return Expressions.greaterThanOrEqual(c, values.get(0));
      case "in": return Expressions.in(c, values);
      case "not in": return Expressions.notIn(c, values);
      case "starts": return Expressions.startsWith(c, (String) values.get(0));
      case "not starts": return Expressions.notStartsWith(c, (String) values.get(0));
      case "nan": return Expressions.isNaN(c);
      case "not nan": return Expressions.notNaN(c);
      case "null": return Expressions.isNull(c);
      default: return Expressions.notNull(c);
    }
  }

  /** Count, sum and sum of squares of the keys, as the other scripts make them. */
  static String digest(List<Long> keys) {
    BigInteger sum = BigInteger.ZERO, squares = BigInteger.ZERO, mod = BigInteger.ONE.shiftLeft(62);
    for (long k : keys) {
      BigInteger b = BigInteger.valueOf(k);
      sum = sum.add(b);
      squares = squares.add(b.multiply(b));
    }
    return "[" + keys.size() + "," + sum.mod(mod) + "," + squares.mod(mod) + "]";
  }

  public static void main(String[] args) throws Exception {
    ObjectMapper json = new ObjectMapper();
    JsonNode tables = json.readTree(new File(args[0])).get("tables");
    int checked = 0;
    List<String> wrong = new ArrayList<>();
    for (var names = tables.fieldNames(); names.hasNext(); ) {
      String name = names.next(), key = tables.get(name).get("key").asText();
      Table table = new BaseTable(new StaticTableOperations(tables.get(name).get("metadata").asText(), LOCAL), name);
      List<Record> all = new ArrayList<>();
      try (CloseableIterable<Record> rows = IcebergGenerics.read(table).build()) {
        rows.forEach(all::add);
      }
      InternalRecordWrapper row = new InternalRecordWrapper(table.schema().asStruct());
      for (JsonNode p : tables.get(name).get("predicates")) {
        String kind = p.get("kind").asText();
        if (kind.equals("nested")) continue;
        checked++;
        String said = name + ": " + p.get("column").asText() + " " + p.get("op").asText() + " " + p.get("values");
        said = said.substring(0, Math.min(said.length(), 140));
        try {
          Expression e = expression(p);
          Set<Long> unordered = new HashSet<>();
          p.get("unordered").forEach(k -> unordered.add(k.asLong()));
          List<Long> keys = new ArrayList<>();
          try (CloseableIterable<Record> rows = IcebergGenerics.read(table).where(e).build()) {
            rows.forEach(r -> keys.add((Long) r.getField(key)));
          }
          keys.removeAll(unordered);
          Evaluator plain = new Evaluator(table.schema().asStruct(), e);
          List<Long> scanned = new ArrayList<>();
          for (Record r : all) if (plain.eval(row.wrap(r))) scanned.add((Long) r.getField(key));
          scanned.removeAll(unordered);
          String got = digest(keys), want = digest(scanned);
          if (!got.equals(want)) wrong.add(said + ": " + keys.size() + " rows, a full scan in Java " + scanned.size());
          // Java orders -0.0 below 0.0, as Python does not.
          else if (!kind.equals("double") && !got.equals(p.get("answer").toString())) wrong.add(said + ": " + keys.size() + " rows, a full scan in Python " + p.get("answer").get(0));
        } catch (Exception e) {
          wrong.add(said + ": " + e);
        }
      }
    }
    System.out.println(json.writeValueAsString(Map.of("Checked", checked, "Wrong", wrong)));
  }
}
